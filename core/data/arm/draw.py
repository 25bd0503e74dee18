"""Pictures of the arm: a table, the base, two links and the gripper, with smooth edges."""

import functools

import numpy as np

from core.data.arm.physics import BASE
from core.data.episodes.smooth_edges import share

TABLE, PLATE = (232, 228, 218), (150, 146, 140)
PLATE_RADIUS = 0.12
UPPER_COLOR, FORE_COLOR, TIP_COLOR = (58, 92, 150), (240, 150, 50), (200, 50, 60)
UPPER_RADIUS, FORE_RADIUS, TIP_RADIUS = 0.065, 0.05, 0.06
FEW = 4  # pictures that are drawn together


def draw(places, size: int) -> np.ndarray:
    """Pictures of elbows and tips [N, 2, 2]: uint8 [N, size, size, 3]."""
    places = np.asarray(places, np.float32)
    parts = [draw_few(places[i : i + FEW], size) for i in range(0, len(places), FEW)]
    return np.concatenate(parts) if parts else np.empty((0, size, size, 3), np.uint8)


def draw_few(places, size: int) -> np.ndarray:
    """The same of so few that their numbers stay in the cache."""
    elbow, tip = places[:, 0], places[:, 1]
    base = np.broadcast_to(np.float32(BASE), elbow.shape)
    picture = np.repeat(background(size)[None], len(places), 0)
    for first, second, radius, color in (
        (base, elbow, UPPER_RADIUS, UPPER_COLOR),
        (elbow, tip, FORE_RADIUS, FORE_COLOR),
        (tip, tip, TIP_RADIUS, TIP_COLOR),
    ):
        cover = share(radius - away_from(first, second, size), size)[..., None]
        picture += cover * (np.float32(color) - picture)
    return (picture + 0.5).astype(np.uint8)


def away_from(first, second, size: int) -> np.ndarray:
    """Distance of pixels' centers from segments [N, 2] to [N, 2]: [N, size, size], in sides."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    way = second - first
    square = np.maximum((way**2).sum(1), 1e-9)[:, None, None]
    x, y, wx, wy = (k[:, None, None] for k in (*first.T, *way.T))
    dx, dy = at - x, at[:, None] - y
    along = np.clip((dx * wx + dy * wy) / square, 0, 1)
    return np.sqrt((dx - along * wx) ** 2 + (dy - along * wy) ** 2)


@functools.cache
def background(size: int) -> np.ndarray:
    """The table with the plate that carries the arm, float32 [size, size, 3]."""
    base = np.float32(BASE)[None]
    cover = share(PLATE_RADIUS - away_from(base, base, size), size)[0, :, :, None]
    return cover * np.float32(PLATE) + (1 - cover) * np.float32(TABLE)
