"""Draws bodies with patterns, shading and soft shadows, from distances to their outlines."""

from typing import NamedTuple

import numpy as np

from core.data.bodies.patterns import PATTERNS, share_inside
from core.data.bodies.physics import CIRCLE, CORNERS, REACH

# Light comes from the upper left, above the plane: x right, y down, z towards the viewer.
LIGHT = np.array([-0.48, -0.6, 0.64], np.float32)
AMBIENT, DIFFUSE, GLOSS = 0.55, 0.68, 40.0
# The rounded rim of shapes with corners: its width in inner radii, and the horizontal part
# of its normal at the outline. A disc is a ball.
BEVEL, STEEP = 0.5, 0.85
SHADOW, SOFT = 0.5, 0.06  # darkness; width of the edge in frame sides
CAST = np.array([0.028, 0.036])  # where a shadow falls, in frame sides


class Paint(NamedTuple):
    """The look of K bodies."""

    pattern: np.ndarray  # int [K], of patterns.PATTERNS
    scale: np.ndarray  # [K] periods of the pattern per radius
    shift: np.ndarray  # [K, 2] periods
    colors: np.ndarray  # [K, 2, 3], 0..255


class Patches(NamedTuple):
    """One body in T frames: n x n pixels around it in each."""

    corner: np.ndarray  # int [T, 2], the first column and row; may be outside the frame
    cover: np.ndarray  # [T, n, n, 1], share of a pixel that it covers
    color: np.ndarray  # [T, n, n, 3]
    shadow: np.ndarray  # [T, n, n, 1], how much it darkens what is behind it


def paint_bodies(video, scene, motion, paint):
    """Draw the bodies of a scene in motion, later ones in front: uint8 as `video`.

    video: uint8 [T, size, size, 3], what is behind the bodies; shadows fall on that alone.
    scene, motion: physics.Scene, physics.Motion. paint: a Paint.
    """
    T, size = video.shape[:2]
    canvas = video.astype(np.float32)
    bodies = [
        _patches(
            int(scene.shape[k]),
            float(scene.radius[k]),
            motion.position[:, k],
            motion.angle[:, k],
            Paint(*(field[k] for field in paint)),
            size,
        )
        for k in range(len(scene.shape))
    ]
    shown = motion.present.T
    cast = np.rint(CAST * size).astype(int)
    black = np.zeros((T, 1, 1, 3), np.float32)
    for body, where in zip(bodies, shown, strict=True):
        _blend(canvas, body.corner + cast, body.shadow, black, where)
    for body, where in zip(bodies, shown, strict=True):
        _blend(canvas, body.corner, body.cover, body.color, where)
    return np.rint(canvas.clip(0, 255)).astype(np.uint8)


def _patches(kind, radius, position, angle, paint, size):
    """Patches of a body: positions [T, 2] in frame sides, angles [T], its own Paint."""
    pixel = 1 / size
    n = 2 * int(np.ceil((radius * REACH[kind] + SOFT / 2) * size)) + 3
    corner = np.floor(position * size).astype(int) - n // 2
    place = (corner[:, None] + np.arange(n)[:, None] + 0.5) / size - position[:, None]
    place = place.astype(np.float32)
    x, y = _turn(place[:, None, :, 0], place[:, :, None, 1], angle)
    light = _turn(*LIGHT[:2], angle)
    distance, facing, bevel = _outline(kind, radius, x, y, light)
    scale = paint.scale / radius
    u, v = x * scale + paint.shift[0], y * scale + paint.shift[1]
    share = PATTERNS[paint.pattern](u, v, scale * pixel)[..., None]
    first, second = paint.colors.astype(np.float32)
    lean = (1 + distance / bevel).clip(0, 1 if kind == CIRCLE else STEEP)
    shadow = (0.5 - distance / SOFT).clip(0, 1)
    return Patches(
        corner,
        cover=share_inside(distance, pixel)[..., None],
        color=_shade(first + share * (second - first), lean, facing),
        shadow=(SHADOW * shadow * shadow * (3 - 2 * shadow))[..., None],
    )


def _turn(x, y, angle):
    """Vectors in the axes of a body at angles [T]: x, y broadcast with [T, 1, 1]."""
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    return cos * x + sin * y, cos * y - sin * x


def _outline(kind, radius, x, y, light):
    """Of points [T, n, n]: the signed distance to the outline, negative inside, and how far
    the nearest rim leans towards the light; and the width of the rim.

    light: its horizontal direction, two arrays [T, 1, 1]; all in the axes of the body.
    """
    if kind == CIRCLE:
        far = np.sqrt(x * x + y * y)
        facing = (x * light[0] + y * light[1]) / np.maximum(far, 1e-6)
        return far - radius, facing, radius
    normals, inner = _SIDES[kind]
    distance = normals[0, 0] * x + normals[0, 1] * y
    facing = normals[0, 0] * light[0] + normals[0, 1] * light[1]
    for a, b in normals[1:]:
        other = a * x + b * y
        facing = np.where(other > distance, a * light[0] + b * light[1], facing)
        distance = np.maximum(distance, other)
    return distance - inner * radius, facing, BEVEL * inner * radius


def _shade(color, lean, facing):
    """Lambert's law with a highlight: color [T, n, n, 3]; horizontal part of the surface's
    normal, and its component towards the light, [T, n, n].
    """
    light = (lean * facing + np.sqrt(1 - lean * lean) * LIGHT[2]).clip(0, 1)
    gloss = np.square(np.square(np.square(light * light)))  # faster than light**16
    return color * (AMBIENT + DIFFUSE * light)[..., None] + (GLOSS * gloss)[..., None]


def _blend(canvas, corner, cover, color, shown):
    """Mix colors into the frames of a float32 canvas where they cover it.

    corner, cover, color: as in Patches. shown: bool [T].
    """
    size, n = canvas.shape[1], cover.shape[1]
    color = np.broadcast_to(color, (*cover.shape[:3], 3))
    low, high = corner.clip(0, size), (corner + n).clip(0, size)
    for t in np.flatnonzero(shown & (low < high).all(-1)):
        (x0, y0), (x1, y1), (x, y) = low[t], high[t], corner[t]
        under = canvas[t, y0:y1, x0:x1]
        part = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
        under += cover[t][part] * (color[t][part] - under)


def _sides(corners):
    """Outward normals [k, 2] and inner radius of a regular polygon around 0."""
    corners = np.array(corners)
    middle = (corners + np.roll(corners, -1, 0)) / 2
    inner = np.linalg.norm(middle, axis=-1)
    return (middle / inner[:, None]).astype(np.float32), float(inner[0])


_SIDES = {kind: _sides(corners) for kind, corners in CORNERS.items()}
