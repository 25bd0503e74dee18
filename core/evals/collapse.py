"""Signs that what a run learns has collapsed, in plain words."""

import math
from collections.abc import Sequence

# Targets follow a layer norm, where a healthy feature has a std near 1 over inputs:
# below 0.05 every input gets nearly the same target.
LEAST_STD = 0.05
# Ranks are effective ranks, at most the number of features and of vectors. Below 2 one
# direction is left; below a twentieth of the most possible, most features are copies.
LEAST_RANK = 2.0
LEAST_RANK_SHARE = 0.05
# Error of the prediction over that of copying the last known state: from 1 on, nothing
# is known about change. Usual in the first steps, so ask `lasting_alarms`.
MOST_COPY_RATIO = 1.0


def health_alarms(scalars: dict[str, float]) -> list[str]:
    """What looks collapsed in one reading, a sentence each; absent keys are not judged.

    Keys: target_std, rank_pooled, rank_tokens, copy_ratio, any of which alarms when it
    is not finite; width, the number of features; rank_samples, the number of vectors
    that rank_pooled was measured over.
    """
    return list(_alarms(scalars).values())


def lasting_alarms(
    readings: Sequence[dict[str, float]], *, patience: int = 5
) -> list[str]:
    """Alarms of the newest reading that rang in each of the last `patience` ones."""
    if len(readings) < patience:
        return []
    rung = [_alarms(reading) for reading in list(readings)[-patience:]]
    return [text for key, text in rung[-1].items() if all(key in r for r in rung)]


def _alarms(scalars):
    """Key -> sentence, for each key that is out of bounds."""
    checks = {
        "target_std": _std_alarm,
        "rank_pooled": _pooled_alarm,
        "rank_tokens": _tokens_alarm,
        "copy_ratio": _copy_alarm,
    }
    alarms = {}
    for key, check in checks.items():
        if key in scalars:
            finite = math.isfinite(scalars[key])
            text = check(scalars) if finite else f"{key} is {scalars[key]}"
            if text:
                alarms[key] = text
    return alarms


def _std_alarm(scalars):
    std = scalars["target_std"]
    if std < LEAST_STD:
        return (
            "targets have collapsed: "
            f"their std over inputs is {std:.3g}, under {LEAST_STD}"
        )


def _pooled_alarm(scalars):
    most = _least_of(scalars, "width", "rank_samples")
    return _rank_alarm("pooled features", scalars["rank_pooled"], most)


def _tokens_alarm(scalars):
    most = _least_of(scalars, "width")
    return _rank_alarm("token features", scalars["rank_tokens"], most)


def _least_of(scalars, *keys):
    """What a rank cannot exceed; if unknown, where LEAST_RANK is the stricter bound."""
    known = [scalars[key] for key in keys if key in scalars]
    return min(known, default=LEAST_RANK / LEAST_RANK_SHARE)


def _rank_alarm(what, rank, most):
    least = max(min(LEAST_RANK, most / 2), LEAST_RANK_SHARE * most)
    if rank < least:
        return (
            f"{what} are collapsing: "
            f"their effective rank is {rank:.3g}, under {least:.3g}"
        )


def _copy_alarm(scalars):
    ratio = scalars["copy_ratio"]
    if ratio >= MOST_COPY_RATIO:
        return (
            "predicting is no better than copying the last known state: "
            f"error ratio {ratio:.3g}, should be under {MOST_COPY_RATIO:g}"
        )
