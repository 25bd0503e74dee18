"""Questions about clips of the embedded world, their answers and naive answers.

Answers are arrays [n, K], NaN where a question does not apply. Naive answers carry on what
was true before: they know the true state, so that a model beats them only by prediction.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

FLOOR = 2  # of the four walls in `contact`
STEP = 2  # frames before the end from which naive answers carry on
HIDDEN, SEEN = 0.2, 0.5  # shares of a body that are visible
COVERED = 0.2  # share of a tubelet from which it shows a body
OCCLUDER = {"occluders": 1}  # of a level, for `hidden_answers`

Clips = Mapping[str, np.ndarray]


class Answers(NamedTuple):
    """By question: the truth, and what carries on."""

    true: dict[str, np.ndarray]
    copied: dict[str, np.ndarray]


MEASURED = {  # question -> core.evals.measures.MEASURES
    "position": "r2",
    "velocity": "r2",
    "contact": "auc",
    "landing": "r2",
    "hidden_body": "accuracy",
    "hidden_place": "r2",
}


def motion_answers(clips: Clips) -> Answers:
    """position, velocity [n, 2 K]: at the last frame. contact [n, 1]: whether two bodies
    touch in its last STEP frames. landing [n, K]: where each body next touches the floor,
    as `landing`.

    clips: records of a World with a future, stacked. Naive answers: the values STEP frames
    before, and the last place.
    """
    position, velocity, contact = (
        clips[name] for name in ("position", "velocity", "contact")
    )
    n, T, K = position.shape[:3]
    before = max(0, T - 1 - STEP)
    touches = contact[..., :K].any((2, 3))
    now, then = touches[:, -STEP:].any(1), touches[:, -2 * STEP : -STEP].any(1)
    return Answers(
        true={
            "position": position[:, -1].reshape(n, -1),
            "velocity": velocity[:, -1].reshape(n, -1),
            "contact": now[:, None].astype(np.float64),
            "landing": landing(clips),
        },
        copied={
            "position": position[:, before].reshape(n, -1),
            "velocity": velocity[:, before].reshape(n, -1),
            "contact": then[:, None].astype(np.float64),
            "landing": position[:, -1, :, 0],
        },
    )


def landing(clips: Clips) -> np.ndarray:
    """x [n, K] of every body in the frame that first shows it on the floor after the clip.

    NaN for a body that is on the floor in the last frame, or not on it in the future.
    """
    K = clips["position"].shape[2]
    lands = clips["future_contact"][..., K + FLOOR]
    first = lands.argmax(1)
    x = np.take_along_axis(clips["future_position"][..., 0], first[:, None], 1)[:, 0]
    falls = lands.any(1) & ~clips["contact"][:, -1, :, K + FLOOR]
    return np.where(falls, x, np.nan)


def hidden_answers(clips: Clips) -> Answers:
    """hidden_body [n, K]: one-hot, the body that is hidden in the last frame.
    hidden_place [n, 2]: where it is then. NaN unless exactly one body is hidden there that
    was seen before.

    Naive answers: the body that was hidden most STEP frames before, and the place where the
    hidden one was last seen.
    """
    visible, position = clips["visible"], clips["position"]
    n, T, K = visible.shape
    seen = visible >= SEEN
    hidden = (visible[:, -1] < HIDDEN) & seen.any(1)
    asked = (hidden.sum(1) == 1) & ((visible[:, -1] < HIDDEN).sum(1) == 1)
    body = hidden.argmax(1)
    rows, last = np.arange(n), T - 1 - seen[:, ::-1].argmax(1)
    one = np.where(asked[:, None], hidden, np.nan)
    place = np.where(asked[:, None], position[rows, -1, body], np.nan)
    return Answers(
        true={"hidden_body": one, "hidden_place": place},
        copied={
            "hidden_body": 1 - visible[:, max(0, T - 1 - STEP)],
            "hidden_place": position[rows, last[rows, body], body],
        },
    )


def patch_classes(masks, patch: tuple[int, int, int], bodies: int) -> np.ndarray:
    """Which body covers each tubelet: int [n, tokens], 0 for none, else 1 + its number.

    The body with most pixels, if it covers COVERED of the tubelet.

    masks: uint8 [n, T, H, W] of a World. patch: frames, rows, columns of a tubelet.
    """
    n, T, H, W = masks.shape
    pt, ph, pw = patch
    x = masks.reshape(n, T // pt, pt, H // ph, ph, W // pw, pw)
    shares = np.stack(
        [(x == k).mean((2, 4, 6)).reshape(n, -1) for k in range(1, bodies + 1)], -1
    )
    return np.where(shares.max(-1) >= COVERED, 1 + shares.argmax(-1), 0)
