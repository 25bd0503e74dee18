"""Pictures of two rooms: floors, walls and the disc, with smooth edges."""

import functools

import numpy as np

from core.data.episodes.smooth_edges import share
from core.data.rooms.physics import BORDER, DOOR, MIDDLE, RADIUS, WALL

FLOORS = ((214, 226, 238), (240, 230, 206))  # left, right
STONE = (66, 72, 88)
DISC, RIM = (222, 62, 48), (122, 22, 20)
RIM_SHARE = 0.75  # of the radius, beyond which the disc is darker
FINE = 8  # points per pixel and axis that walls are drawn with


def draw(position, size: int) -> np.ndarray:
    """Pictures of discs at `position` [N, 2]: uint8 [N, size, size, 3]."""
    N, position = len(position), np.asarray(position, np.float32)
    floor = background(size)
    picture = np.empty((N, size, size, 3), np.uint8)
    picture[:] = (floor + 0.5).astype(np.uint8)
    # Only the pixels around each disc differ.
    side = min(size, int(np.ceil(2 * RADIUS * size)) + 2)
    first = np.clip(np.rint(position * size - side / 2), 0, size - side).astype(int)
    x, y = np.moveaxis(first[:, :, None] + np.arange(side), 1, 0)
    place = np.arange(N)[:, None, None], y[:, :, None], x[:, None, :]
    dx, dy = ((k + 0.5) / size - position[:, i, None] for i, k in enumerate((x, y)))
    away = np.hypot(dx[:, None, :], dy[:, :, None]).astype(np.float32)
    seen = floor[place[1:]]
    for radius, color in ((RADIUS, RIM), (RADIUS * RIM_SHARE, DISC)):
        cover = share(radius - away, size)[..., None]
        seen = seen + cover * (np.array(color, np.float32) - seen)
    picture[place] = (seen + 0.5).astype(np.uint8)
    return picture


@functools.cache
def background(size: int) -> np.ndarray:
    """The rooms without the disc, float32 [size, size, 3] in 0..255."""
    grid = (np.arange(size * FINE) + 0.5) / (size * FINE)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    outer = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)) < BORDER
    wall = (np.abs(x - MIDDLE) < WALL) & (np.abs(y - MIDDLE) > DOOR)
    floor = np.where((x < MIDDLE)[..., None], *np.array(FLOORS, float))
    fine = np.where((outer | wall)[..., None], np.array(STONE, float), floor)
    blocks = fine.reshape(size, FINE, size, FINE, 3)
    return blocks.mean((1, 3)).astype(np.float32)
