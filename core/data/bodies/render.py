"""Draws moving sprites over textured, unevenly lit backgrounds, with OpenCV."""

from itertools import repeat
from math import ceil, pi, sqrt
from typing import NamedTuple

import cv2
import numpy as np

from core.data.bodies.physics import CORNERS

cv2.setNumThreads(0)  # the workers are the parallelism

FINE = 2  # sub-pixels per pixel and axis, on top of OpenCV's own anti-aliasing
SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
GROWTH = 2 / 3  # sub-pixels by which LINE_AA fills exceed an outline, measured
POINTS = 24  # per outline; divisible by 3 and 4 sides and 8 wedges of a pinwheel


class Sprites(NamedTuple):
    """S flat shapes in drawing order over T frames, each a pinwheel of two colors."""

    outline: np.ndarray  # [S, POINTS, 2] around the center, in frame sides
    colors: np.ndarray  # [S, 2, 3], 0..255
    convex: np.ndarray  # bool [S]
    position: np.ndarray  # [T, S, 2] frame sides
    angle: np.ndarray  # [T, S] radians
    shown: np.ndarray  # bool [T, S]


def body_outlines(shape, radius):
    """Outlines of bodies: shapes [K] (physics.CIRCLE, ...), radii [K] -> [K, POINTS, 2]."""
    return np.stack([_OUTLINES[int(k)] for k in shape]) * radius[:, None, None]


def blob_outlines(lobes, phase, depth, radius):
    """Wavy discs, unlike any body: four arrays [S] -> [S, POINTS, 2]."""
    wave = 1 + depth[:, None] * np.cos(lobes[:, None] * _ANGLES + phase[:, None])
    return (wave * radius[:, None])[..., None] * _DISC


def stack_sprites(groups):
    """Concatenate Sprites; later ones are drawn in front."""
    axes = (0, 0, 0, 1, 1, 1)
    return Sprites(
        *(
            np.concatenate(f, a)
            for f, a in zip(zip(*groups, strict=True), axes, strict=True)
        )
    )


def pick_sprites(sprites, part):
    """Some of the sprites. part: a slice of them."""
    outline, colors, convex, *moving = sprites
    moving = [field[:, part] for field in moving]
    return Sprites(outline[part], colors[part], convex[part], *moving)


def make_texture(rng, *, side, frame, cells, chroma, contrast):
    """Octaves of smooth noise around 0, with a range of about `contrast`: [side, side, 3].

    cells: patches of each octave along a frame of `frame` pixels. chroma: 0 gray, 1 colored.
    """
    total = np.zeros((side, side, 3), np.float32)
    for count in cells:
        patches = max(2, ceil(count * side / frame))
        grid = rng.random((patches, patches, 4), dtype=np.float32) - 0.5
        grid = grid[..., :1] * (1 - chroma) + grid[..., 1:] * chroma
        total += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return total * (contrast / sqrt(len(cells)))


def fill_shapes(points, colors, ground, side):
    """Draw shapes [S, n, 2], in pixels, on a plane of one color: uint8 [side, side, 3].

    colors: S of three numbers in 0..255; ground: [3].
    """
    fixed = np.rint((points * FINE - 0.5) * 2**SHIFT).astype(np.int32)
    canvas = np.empty((side * FINE, side * FINE, 3), np.uint8)
    canvas[:] = ground
    for shape, color in zip(fixed, colors, strict=True):
        cv2.fillPoly(canvas, [shape], color, cv2.LINE_AA, SHIFT)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)


def place_sprites(sprites):
    """Outlines at the positions of the sprites, in frame sides: [T, S, POINTS, 2]."""
    cos, sin = np.cos(sprites.angle)[..., None], np.sin(sprites.angle)[..., None]
    x, y = sprites.outline[..., 0], sprites.outline[..., 1]
    turned = np.stack([x * cos - y * sin, x * sin + y * cos], -1)
    return turned + sprites.position[:, :, None]


def draw_clip(texture, offset, flicker, sprites, points, size):
    """Draw sprites over a panned, flickering texture: uint8 [T, size, size, 3].

    texture: uint8 [side, side, 3]. offset: [T, 2], its pixel at the corner of each frame.
    flicker: [T, size, size, 3] that is added to it, or None. points: `place_sprites(sprites)`.
    """
    T = len(sprites.angle)
    drawn = _fine_outlines(sprites, points, size)
    moved = [True, *(offset[1:] != offset[:-1]).any(1).tolist()]
    video = np.empty((T, size, size, 3), np.uint8)
    for t in range(T):
        if moved[t] or flicker is not None:
            added = None if flicker is None else flicker[t]
            ground = _window(texture, offset[t], added, size)
        canvas = ground.copy()
        _draw_frame(canvas, sprites, drawn, t)
        cv2.resize(canvas, (size, size), video[t], interpolation=cv2.INTER_AREA)
    return video


def draw_over(video, sprites, points):
    """Draw sprites in front of a video uint8 [T, size, size, 3]; returns a new one.

    points: `place_sprites(sprites)`.
    """
    T, size = video.shape[:2]
    if not sprites.angle.shape[1]:
        return video
    drawn = _fine_outlines(sprites, points, size)
    over = np.empty_like(video)
    for t in range(T):
        canvas = _enlarge(video[t])
        _draw_frame(canvas, sprites, drawn, t)
        cv2.resize(canvas, (size, size), over[t], interpolation=cv2.INTER_AREA)
    return over


def _fine_outlines(sprites, points, size):
    """Outlines and wedges of pinwheels in the fixed point of canvases enlarged by FINE."""
    T, S = sprites.angle.shape
    centers = np.broadcast_to(sprites.position[:, :, None, None], (T, S, 4, 1, 2))
    inner = np.linalg.norm(sprites.outline, axis=-1).min(-1)[:, None, None]
    shrink = GROWTH / (inner * size * FINE)
    points = points + shrink * (sprites.position[:, :, None] - points)
    wedges = np.concatenate([centers, points[:, :, _WEDGES]], 3)
    return _fixed(points, size * FINE), _fixed(wedges, size * FINE)


def _draw_frame(canvas, sprites, drawn, t):
    """Draw the sprites of frame t. drawn: what `_fine_outlines` returns."""
    points, wedges = drawn
    colors = sprites.colors.clip(0, 255).tolist()
    for s in np.flatnonzero(sprites.shown[t]):
        first, second = colors[s]
        if sprites.convex[s]:  # the finer filler of the two
            cv2.fillConvexPoly(canvas, points[t, s], first, cv2.LINE_AA, SHIFT)
        else:
            cv2.fillPoly(canvas, [points[t, s]], first, cv2.LINE_AA, SHIFT)
        if first != second:
            cv2.fillPoly(canvas, wedges[t, s], second, cv2.LINE_AA, SHIFT)


def light_clip(video, gain, noise):
    """Multiply a video by gain and add noise, in place, a frame at a time.

    A frame's numbers stay in the cache. gain: frames of `light_gain`. noise: frames float32
    [size, size, 3], or None.
    """
    size = video.shape[1]
    lit = np.empty((size, 3 * size), np.float32)
    for frame, rate, added in zip(video, gain, noise or repeat(None), strict=False):
        row = frame.reshape(lit.shape)
        np.multiply(row, rate, out=lit)
        if added is not None:
            lit += added.reshape(lit.shape)
        np.clip(lit, 0, 255, out=lit)
        np.copyto(row, lit, casting="unsafe")


def light_gain(rng, *, frames, fps, size, amplitude):
    """A slowly changing gradient, 1 +- amplitude; yields `frames` times [size, 3 size].

    Columns are those of the three channels of each pixel.
    """
    phase, pace = rng.uniform(0, 2 * pi, 3), rng.uniform(1, 4, 3)
    swing = np.sin(phase + pace * np.arange(frames)[:, None] / fps) * (amplitude / 3)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    across, down = np.repeat(ramp, 3), ramp[:, None]
    for level, x, y in swing.astype(np.float32):
        yield 1 + level + x * across + y * down


def visible_share(sprites, points, slots, size):
    """Share of each body that is inside the frame and not covered, in pixels: [T, K].

    points: `place_sprites(sprites)`. slots: the range of sprites that are bodies.
    """
    T, S = sprites.angle.shape
    # A margin for bodies that leave through a wall, up to one side.
    outside = np.abs(points[:, slots] - 0.5).max() - 0.5
    margin = 1 + ceil(size * min(max(outside, 0), 1))
    fixed = _fixed(points, size) + (margin << SHIFT)
    buffer = np.empty((size + 2 * margin,) * 2, np.uint8)
    inside = buffer[margin : margin + size, margin : margin + size]
    share = np.zeros((T, len(slots)), np.float32)
    for t in range(T):
        buffer[:] = 0
        for s in slots:
            if sprites.shown[t, s]:
                cv2.fillConvexPoly(buffer, fixed[t, s], s + 1, cv2.LINE_8, SHIFT)
        whole = [_count(buffer, s + 1) for s in slots]
        for s in range(slots.stop, S):
            if sprites.shown[t, s]:
                cv2.fillPoly(buffer, [fixed[t, s]], 0, cv2.LINE_8, SHIFT)
        left = [_count(inside, s + 1) for s in slots]
        share[t] = [
            some / max(every, 1) for some, every in zip(left, whole, strict=True)
        ]
    return share


def body_masks(sprites, points, slots, size):
    """Which body each pixel shows: uint8 [T, size, size], 0 for none, else 1 + its number.

    points: `place_sprites(sprites)`. slots: the range of sprites that are bodies.
    """
    T, S = sprites.angle.shape
    fixed = _fixed(points, size)
    masks = np.zeros((T, size, size), np.uint8)
    for t in range(T):
        for s in range(slots.start, S):
            if sprites.shown[t, s]:
                value = s - slots.start + 1 if s in slots else 0
                cv2.fillPoly(masks[t], [fixed[t, s]], value, cv2.LINE_8, SHIFT)
    return masks


def hue_color(hue, saturation):
    """Colors of full value: hues in turns [N], saturations [N] -> [N, 3] in 0..1."""
    wheel = np.abs((hue[:, None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    return 1 - saturation[:, None] * (1 - wheel.clip(0, 1))


def _count(buffer, value):
    return cv2.countNonZero(cv2.compare(buffer, value, cv2.CMP_EQ))


def _fixed(points, size):
    """Frame sides to OpenCV's fixed point, where pixel centers are integers."""
    pixels = points.clip(-1, 2) * size - 0.5
    return np.rint(pixels * 2**SHIFT).astype(np.int32)


def _window(texture, offset, added, size):
    """The frame at a fractional corner of a texture, enlarged by FINE."""
    middle = offset + (size - 1) / 2
    cut = cv2.getRectSubPix(texture, (size, size), (float(middle[0]), float(middle[1])))
    if added is not None:
        cut = (cut + added).clip(0, 255).astype(np.uint8)
    return _enlarge(cut)


def _enlarge(frame):
    """Nearest, so that the area average after drawing restores the frame exactly."""
    size = len(frame) * FINE
    return cv2.resize(frame, (size, size), interpolation=cv2.INTER_NEAREST)


def subdivide(corners):
    """POINTS points at equal distances along the sides of a polygon."""
    corners = np.array(corners)
    share = np.arange(0, 1, len(corners) / POINTS)[:, None]
    sides = zip(corners, np.roll(corners, -1, 0), strict=True)
    return np.concatenate([a + (b - a) * share for a, b in sides])


_ANGLES = 2 * pi * np.arange(POINTS) / POINTS
_DISC = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)
# A polygon with the area of the disc.
_ROUND = _DISC * sqrt(2 * pi / POINTS / np.sin(2 * pi / POINTS))
_OUTLINES = {0: _ROUND} | {k: subdivide(corners) for k, corners in CORNERS.items()}
_WEDGES = (np.arange(0, POINTS, 6)[:, None] + np.arange(4)) % POINTS
