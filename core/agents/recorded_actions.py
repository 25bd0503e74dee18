"""Units of recorded actions: from what a data set says of them to an agent's vectors.

core/data/episodes/action_parts.py has the description of the vectors.
"""

import numpy as np

from core.agents.spaces import Space, Spaces
from core.data.episodes.action_parts import LARGE, layout_of, text_of
from core.data.episodes.steps import one_hot
from core.data.records import BadSample

SLACK = 1e-3  # beyond -1..1 that is rounding


def parts_of(actions: Spaces) -> list[dict]:
    """The description of vectors that an agent chooses, as a replay keeps it."""
    parts = []
    for _, space in actions:
        count = int(np.prod(space.shape))
        one = {"classes": space.classes} if space.is_discrete else {"agent": count}
        parts += [one] * (count if space.is_discrete else 1)
    return parts


def spaces_of(parts: list[dict]) -> dict[str, Space]:
    """Spaces by name, whose vectors are those that the parts describe."""
    layout = layout_of(parts)
    if not any(layout):
        return {"action": Space((len(layout),))}
    if len(layout) == 1:
        return {"action": Space((), "int32", layout[0])}
    return {
        f"action_{i:03d}": Space((), "int32", n) if n else Space((1,))
        for i, n in enumerate(layout)
    }


def is_one_hot(action, is_first) -> bool:
    """Whether the vectors [T, A] before each step are a choice: one-hot, or zero at first."""
    hot = np.isin(action, (0, 1)).all(-1) & (action.sum(-1) == 1)
    none = np.asarray(is_first, bool) & ~action.any(-1)
    return action.shape[-1] > 1 and bool(hot.any() and (hot | none).all())


def to_agent(
    action, is_last, *, parts, actions: Spaces, bounds=(-1.0, 1.0)
) -> np.ndarray:
    """Recorded actions [T, A] as an agent's vectors; zero after an episode's last step.

    parts: the description, or None if there is none: then integers [T, 1] may be a choice.
    bounds: (low, high) of reals without a description. Raises ValueError if the description
    is not that of `actions` or a real exceeds its bounds, and BadSample for vectors of
    another form.
    """
    layout, over = layout_of(parts_of(actions)), np.asarray(is_last, bool)
    if parts is not None and layout_of(parts) != layout:
        raise ValueError(
            f"recorded actions are {text_of(layout_of(parts))}, but those of the "
            f"environment are {text_of(layout)}"
        )
    action = np.array(action, np.float32).reshape(len(over), -1)
    if len(layout) == 1 and layout[0] > 1 and action.shape[1] == 1:
        if (action != np.rint(action)).any():
            raise BadSample("'action' is not always an integer")
        action = one_hot(action[:, 0], layout[0])
    width = sum(max(1, n) for n in layout)
    if action.shape[1] != width:
        raise BadSample(f"'action' has {action.shape[1]} numbers, not {width}")
    start = 0
    for n in layout:
        group = action[~over, start : start + n]
        if (
            n
            and not (np.isin(group, (0, 1)) & (group.sum(1, keepdims=True) == 1)).all()
        ):
            raise BadSample(f"'action' is not always a choice of {n}")
        start += max(1, n)
    reals = np.repeat(layout, np.maximum(1, layout)) == 0
    action[:, reals] = scaled(action[:, reals], ~over, parts, bounds)
    return action * ~over[:, None]


def scaled(x, used, parts, bounds) -> np.ndarray:
    """Reals [T, n] in an agent's units. used: the steps [T] whose action was taken."""
    low, high, agent = bounds_of(parts, x.shape[1])
    known = (np.abs(low) <= LARGE) & (np.abs(high) <= LARGE)
    low, high = np.where(known, low, bounds[0]), np.where(known, high, bounds[1])
    y = 2 * (x - low) / np.where(high > low, high - low, 1) - 1
    y = np.where(high > low, y, 0)
    if (far := used[:, None] & ~agent & ~(np.abs(y) <= 1 + SLACK)).any():
        t, i = np.argwhere(far)[0]
        guess = (
            ""
            if known[i]
            else (
                "; the data set does not say its bounds, so give them by "
                "--config.replay.action_bounds=LOW,HIGH"
            )
        )
        raise ValueError(
            f"a recorded action is {x[t, i]:g}, beyond its bounds, {low[i]:g} to "
            f"{high[i]:g}{guess}"
        )
    return np.where(agent, x, np.clip(y, -1, 1))


def bounds_of(parts, count: int):
    """(low, high, whether an agent chose it) of each real, [n] each; NaN if not known."""
    low, high, agent = [], [], []
    for part in parts or ():
        n = part["agent"] if "agent" in part else len(part.get("low", ()))
        low += [np.nan] * n if "agent" in part else part.get("low", [])
        high += [np.nan] * n if "agent" in part else part.get("high", [])
        agent += ["agent" in part] * n
    if parts is None:
        low, high, agent = [np.nan] * count, [np.nan] * count, [False] * count
    return np.array(low, float), np.array(high, float), np.array(agent, bool)
