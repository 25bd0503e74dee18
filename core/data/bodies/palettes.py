"""Harmonious colors, and what is drawn from them: patterned grounds and bodies."""

from math import ceil, pi
from typing import NamedTuple

import cv2
import numpy as np

from core.data.bodies import patterns, render
from core.data.bodies.painting import Paint


class Palette(NamedTuple):
    """Colors in 0..255. Those of a body have the same hue in all palettes, nearly."""

    ground: tuple  # two, close to each other
    bodies: tuple  # red, blue, yellow, violet, green, brown
    light: tuple  # beside the color of a body in its pattern


PALETTES = (
    Palette(  # sand
        ((232, 217, 190), (214, 194, 160)),
        ((206, 76, 60), (34, 112, 128), (232, 164, 44),
         (124, 82, 136), (104, 142, 84), (132, 92, 66)),
        (252, 245, 232),
    ),
    Palette(  # sage
        ((190, 206, 186), (162, 184, 162)),
        ((196, 70, 78), (44, 88, 140), (238, 182, 70),
         (128, 78, 130), (70, 120, 74), (126, 88, 70)),
        (248, 246, 234),
    ),
    Palette(  # slate
        ((96, 110, 132), (78, 91, 114)),
        ((238, 108, 90), (98, 186, 204), (250, 204, 100),
         (176, 136, 200), (136, 190, 128), (190, 146, 114)),
        (250, 240, 226),
    ),
    Palette(  # heather
        ((206, 192, 206), (184, 166, 190)),
        ((190, 56, 82), (40, 104, 132), (226, 158, 56),
         (104, 66, 134), (86, 130, 92), (122, 84, 74)),
        (252, 244, 246),
    ),
)  # fmt: skip
RINGS = patterns.PATTERNS.index(patterns.rings)
TINT = 0.4  # of the colors of bodies in those of grounds
GRAIN = 14.0  # contrast of the soft clouds on grounds
PEBBLES = 90  # per frame


def draw_paint(rng, palette, bodies):
    """A Paint of K bodies: each has its color of the palette, no two the same pattern."""
    K = bodies
    order = rng.permutation(len(patterns.PATTERNS))
    scale, shift, shade, contrast = np.split(rng.random((K, 5)), [1, 3, 4], 1)
    own = np.resize(np.array(palette.bodies, float), (K, 3))
    own = (own * (0.92 + 0.16 * shade)).clip(0, 255)
    # Beside it a light color, or a dark one of the same hue.
    other = np.where(contrast < 0.7, np.array(palette.light, float), 0.5 * own)
    return Paint(
        pattern=np.resize(order, K),
        scale=0.8 + 0.4 * scale[:, 0],
        shift=np.where(np.resize(order, K)[:, None] == RINGS, 0.0, shift),
        colors=np.stack([own, other], 1),
    )


def draw_ground(rng, palette, *, side, frame):
    """A patterned plane of side x side pixels, of which `frame` are a frame: uint8.

    One of checkered tiles, dunes and pebbles, with soft clouds.
    """
    kind, turn, scale, phase = rng.random(4)
    low, high = np.array(palette.ground, float)
    tints = TINT * np.array(palette.bodies[:3], float) + (1 - TINT) * low
    turn, count = 2 * pi * turn, 3 + 2 * scale
    draw = (_tiles, _dunes, _pebbles)[int(3 * kind)]
    plane = draw(rng, np.stack([low, high, *tints]), side, frame, turn, count, phase)
    clouds = render.make_texture(
        rng, side=side, frame=frame, cells=(2, 5), chroma=0.0, contrast=GRAIN
    )
    return (plane + clouds).clip(0, 255).astype(np.uint8)


def _coordinates(side, frame, turn, count):
    """x, y of pixels, turned, `count` to a frame side; and the side of a pixel."""
    place = ((np.arange(side) + 0.5) * (count / frame)).astype(np.float32)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = place[None, :], place[:, None]
    return c * x + s * y, c * y - s * x, count / frame


def _tiles(rng, colors, side, frame, turn, count, phase):
    """A checkerboard, some of whose tiles have other colors, with joints."""
    x, y, pixel = _coordinates(side, frame, turn, count)
    pick = rng.choice(len(colors), (16, 16), p=[0.4, 0.36, 0.08, 0.08, 0.08])
    own = colors.astype(np.float32)[pick]
    tile = own[np.floor(x).astype(int) % 16, np.floor(y).astype(int) % 16]
    edge = np.minimum(np.abs(x - np.rint(x)), np.abs(y - np.rint(y)))
    joint = patterns.share_inside(edge - 0.035, pixel)[..., None]
    return tile + joint * 0.35 * (255 - tile)


def _dunes(rng, colors, side, frame, turn, count, phase):
    """Wavy stripes of four colors."""
    x, y, pixel = _coordinates(side, frame, turn, count)
    x = x + 0.3 * np.sin(1.7 * y + 2 * pi * phase) + 0.12 * np.sin(4.1 * y)
    order = colors.astype(np.float32)[[0, 1, 2, 1, 0, 3, 0, 1, 4, 1]]
    band, within = np.floor(x).astype(int), x - np.floor(x)
    share = patterns.share_inside(0.5 - within, pixel)[..., None]
    # Each band fades from its color to the next one over a pixel in its middle.
    first, second = order[band % len(order)], order[(band + 1) % len(order)]
    return first + share * (second - first)


def _pebbles(rng, colors, side, frame, turn, count, phase):
    """Round stones of several colors and sizes."""
    N = int(PEBBLES * (side / frame) ** 2)
    draws = rng.random((N, 5))
    outline = render.blob_outlines(
        lobes=2 + np.floor(2 * draws[:, 0]),
        phase=2 * pi * draws[:, 1],
        depth=np.full(N, 0.2),
        radius=(0.018 + 0.03 * draws[:, 2] ** 2) * frame,
    )
    points = outline + side * draws[:, None, 3:]
    fixed = np.rint((points * 2 - 0.5) * 16).astype(np.int32)
    plane = np.empty((2 * side, 2 * side, 3), np.uint8)
    plane[:] = colors[0]
    pick = rng.choice(len(colors) - 1, N, p=[0.52, 0.16, 0.16, 0.16]) + 1
    for stone, color in zip(fixed, colors[pick].tolist(), strict=True):
        cv2.fillPoly(plane, [stone], color, cv2.LINE_AA, 4)
    return cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA)
