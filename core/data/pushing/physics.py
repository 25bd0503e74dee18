"""Motion of a disc that pushes a puck in a closed box, many boxes at once.

The box is the unit square, x to the right and y down. Motion is quasi-static: the puck moves
only while it is pushed, along the line between the two centers (no friction at the contact).
The disc's path is followed in parts shorter than a quarter of its radius, so that it cannot
jump over the puck; a puck at the border stops the disc.
"""

import numpy as np

DISC, PUCK = 0.05, 0.08  # radii
BORDER = 0.02  # thickness of the walls
STEP = 0.03  # sides that an action of 1 moves along its axis
PARTS = 4  # of a step: each is at most sqrt(2) * STEP / PARTS long
TOUCH = DISC + PUCK


def move(disc, puck, displacement) -> tuple[np.ndarray, np.ndarray]:
    """(disc, puck) after the disc tries to move by `displacement`; all [B, 2]."""
    disc, puck = (np.array(x, np.float64) for x in (disc, puck))
    part = np.asarray(displacement, np.float64) / PARTS
    for _ in range(PARTS):
        disc = inside(disc + part, DISC)
        puck = inside(puck + overlap(puck - disc), PUCK)
        disc = inside(
            disc + overlap(disc - puck), DISC
        )  # where the puck cannot give way
    return disc, puck


def overlap(between) -> np.ndarray:
    """By how much a body at `between` [B, 2] from the other one has to move, [B, 2]."""
    away = np.linalg.norm(between, axis=1, keepdims=True)
    way = between / np.maximum(away, 1e-9)
    way = np.where(away > 1e-9, way, np.array([1.0, 0.0]))
    return np.maximum(TOUCH - away, 0) * way


def inside(place, radius: float) -> np.ndarray:
    """Places within the walls."""
    return np.clip(place, BORDER + radius, 1 - BORDER - radius)


def random_places(rng, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(disc, puck) [count, 2] that do not touch; the puck keeps off the walls."""
    puck = rng.uniform(0.25, 0.75, (count, 2))
    disc = puck.copy()
    while (near := np.linalg.norm(disc - puck, axis=1) < TOUCH + 0.01).any():
        low = BORDER + DISC
        disc[near] = rng.uniform(low, 1 - low, (int(near.sum()), 2))
    return disc, puck
