"""Pictures of the pushing task: floor, walls, puck and disc, with smooth edges."""

import numpy as np

from core.data.pushing.physics import BORDER, DISC, PUCK

FLOOR, STONE = (236, 232, 222), (70, 74, 84)
PUCK_COLOR, DISC_COLOR = (48, 98, 190), (222, 62, 48)


def draw(disc, puck, size: int) -> np.ndarray:
    """Pictures of discs and pucks at [N, 2]: uint8 [N, size, size, 3]."""
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    edge = np.minimum(at, 1 - at)
    wall = share(BORDER - np.minimum(edge[:, None], edge), size)[None]
    N = len(disc)
    picture = np.broadcast_to(np.float32(FLOOR), (N, size, size, 3))
    picture = blend(picture, wall, STONE)
    for place, radius, color in ((puck, PUCK, PUCK_COLOR), (disc, DISC, DISC_COLOR)):
        x, y = np.asarray(place, np.float32).T
        away = np.hypot(at - x[:, None, None], at[:, None] - y[:, None, None])
        picture = blend(picture, share(radius - away, size), color)
    return (picture + 0.5).astype(np.uint8)


def share(depth, size: int) -> np.ndarray:
    """How much of a pixel is covered, whose center is `depth` sides within a body."""
    return np.clip(depth * size + 0.5, 0, 1)


def blend(picture, cover, color) -> np.ndarray:
    """A color over pictures [N, H, W, 3] by the share [N, H, W] of each pixel."""
    return picture + cover[..., None] * (np.float32(color) - picture)
