"""Alarms about collapsed features and useless predictions, from numbers of a health panel."""

import math

from core.runs.findings import LastingAlarm

# Targets are layer-normalized: a healthy feature has a std near 1 over inputs. Below 0.05
# every input gets nearly the same target.
LEAST_STD = 0.05
# An effective rank is at most the number of features and of vectors. Below 2 one direction
# is left; below a twentieth of that maximum, most features are redundant.
LEAST_RANK = 2.0
LEAST_RANK_SHARE = 0.05
# Error of the prediction over that of copying the last known state. From 1 on the model
# predicts no change; usual in the first steps, so this alarm has to last.
MOST_COPY_RATIO = 1.0


def health_alarms(scalars: dict[str, float]) -> list[str]:
    """One sentence for each number of an evaluation that is out of bounds or not finite.

    Numbers: target_std, rank_pooled, rank_tokens and copy_ratio, whose alarm is a
    `LastingAlarm`; those that are absent are ignored. They may come with width, the number
    of features, and rank_samples, the number of vectors that rank_pooled is measured over.
    """
    checks = {
        "target_std": _std_alarm,
        "rank_pooled": _pooled_alarm,
        "rank_tokens": _tokens_alarm,
        "copy_ratio": _copy_alarm,
    }
    alarms = []
    for key, check in checks.items():
        if key in scalars:
            finite = math.isfinite(scalars[key])
            text = check(scalars) if finite else f"{key} is {scalars[key]}"
            if text:
                alarms.append(text)
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
    """The maximum of a rank; if unknown, a value for which LEAST_RANK decides."""
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
        return LastingAlarm(
            "predicting is no better than copying the last known state: "
            f"error ratio {ratio:.3g}, should be under {MOST_COPY_RATIO:g}",
            name="copy_ratio",
            limit=MOST_COPY_RATIO,
        )


def verdict(scalars: dict[str, float], alarms: list[str], shown: dict[str, str]) -> str:
    """One line: healthy, collapsed, collapsing or unhealthy, and the figures behind it.

    alarms: of the same numbers; those that have to last are left out. shown: name of a
    number -> what is expected of it.
    """
    texts = [text for text in alarms if not isinstance(text, LastingAlarm)]
    words = ("collapsed", "collapsing")
    word = "healthy"
    if texts:
        word = next((x for x in words if x in texts[0]), "unhealthy")
    known = [name for name in shown if name in scalars]
    figures = "; ".join(f"{name} {scalars[name]:.3g} ({shown[name]})" for name in known)
    return f"{word}: {figures}" if figures else word
