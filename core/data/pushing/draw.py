"""Pictures of the pushing task: floor, walls, puck and disc, with smooth edges."""

import functools

import numpy as np

from core.data.episodes.smooth_edges import share
from core.data.pushing.physics import BORDER, DISC, PUCK

FLOOR, STONE = (236, 232, 222), (70, 74, 84)
PUCK_COLOR, DISC_COLOR = (48, 98, 190), (222, 62, 48)


def draw(disc, puck, size: int) -> np.ndarray:
    """Pictures of discs and pucks at [N, 2]: uint8 [N, size, size, 3]."""
    picture = np.broadcast_to(background(size), (len(disc), size, size, 3)).copy()
    for place, radius, color in ((puck, PUCK, PUCK_COLOR), (disc, DISC, DISC_COLOR)):
        put(picture, np.asarray(place, np.float32), radius, color)
    return picture


def put(picture, place, radius: float, color) -> None:
    """Draw a body at [N, 2] into pictures; only the pixels around it are touched."""
    N, size = picture.shape[:2]
    side = min(size, int(np.ceil(2 * radius * size)) + 2)
    first = np.clip(np.rint(place * size - side / 2), 0, size - side).astype(int)
    x, y = np.moveaxis(first[:, :, None] + np.arange(side), 1, 0)  # [N, side] each
    pixels = np.arange(N)[:, None, None], y[:, :, None], x[:, None, :]
    dx, dy = ((k + 0.5) / size - place[:, i, None] for i, k in enumerate((x, y)))
    away = np.hypot(dx[:, None, :], dy[:, :, None]).astype(np.float32)
    cover = share(radius - away, size)[..., None]
    below = picture[pixels].astype(np.float32)
    picture[pixels] = below + cover * (np.float32(color) - below) + 0.5


@functools.cache
def background(size: int) -> np.ndarray:
    """The empty box, uint8 [size, size, 3]."""
    at = (np.arange(size) + 0.5) / size
    edge = np.minimum(at, 1 - at)
    wall = share(BORDER - np.minimum(edge[:, None], edge), size)[..., None]
    return (wall * np.float32(STONE) + (1 - wall) * np.float32(FLOOR) + 0.5).astype(
        "u1"
    )
