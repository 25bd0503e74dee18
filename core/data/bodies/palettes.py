"""Harmonious colors, and what is drawn from them: patterned grounds and bodies."""

from math import pi
from typing import NamedTuple

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
TINT = 0.4  # of the colors of bodies in those of spots on the ground
CLOUDS = 14.0  # contrast of soft clouds on grounds
JOINT = 0.035  # half the width of joints between tiles, in tiles
PEBBLES = 90  # in a frame


def draw_paint(rng, palette, bodies):
    """A Paint of K bodies, each in its color of the palette and with a pattern of its own."""
    order = rng.permutation(len(patterns.PATTERNS))
    pattern = np.resize(order, bodies)
    scale, shift, shade, beside = np.split(rng.random((bodies, 5)), [1, 3, 4], 1)
    own = np.resize(np.array(palette.bodies, float), (bodies, 3))
    own = (own * (0.92 + 0.16 * shade)).clip(0, 255)
    other = np.where(beside < 0.7, np.array(palette.light, float), 0.5 * own)
    return Paint(
        pattern=pattern,
        scale=0.8 + 0.4 * scale[:, 0],
        shift=np.where(pattern[:, None] == RINGS, 0.0, shift),
        colors=np.stack([own, other], 1),
    )


def draw_ground(rng, palette, *, side, frame):
    """A patterned plane of side x side pixels, `frame` of which span a frame: uint8.

    It has tiles, dunes or pebbles in five colors: two of the ground, and three between the
    first of them and those of the first bodies.
    """
    low, high = np.array(palette.ground, np.float32)
    tints = low + TINT * (np.array(palette.bodies[:3], np.float32) - low)
    draw = (tiles, dunes, pebbles)[int(rng.integers(3))]
    plane = draw(rng, np.stack([low, high, *tints]), side=side, frame=frame)
    clouds = render.make_texture(
        rng, side=side, frame=frame, cells=(2, 5), chroma=0.0, contrast=CLOUDS
    )
    return (plane + clouds).clip(0, 255).astype(np.uint8)


def tiles(rng, colors, *, side, frame):
    """Square tiles with light joints: float32 [side, side, 3]. colors: [5, 3]."""
    x, y, pixel = _turned_plane(rng, side, frame)
    pick = rng.choice(5, (16, 16), p=[0.4, 0.36, 0.08, 0.08, 0.08])
    tile = colors[pick][np.floor(x).astype(int) % 16, np.floor(y).astype(int) % 16]
    edge = np.minimum(np.abs(x - np.rint(x)), np.abs(y - np.rint(y)))
    joint = patterns.share_inside(edge - JOINT, pixel)[..., None]
    return tile + 0.35 * joint * (255 - tile)


def dunes(rng, colors, *, side, frame):
    """Wavy bands: float32 [side, side, 3]. colors: [5, 3]."""
    x, y, pixel = _turned_plane(rng, side, frame)
    x = x + 0.3 * np.sin(1.7 * y + 2 * pi * rng.random()) + 0.12 * np.sin(4.1 * y)
    order = colors[[0, 1, 2, 1, 0, 3, 0, 1, 4, 1]]
    band = np.floor(x).astype(int)
    # The middle of a cell is the edge between two bands.
    share = patterns.share_inside(0.5 - (x - band), pixel)[..., None]
    first, second = order[band % 10], order[(band + 1) % 10]
    return first + share * (second - first)


def pebbles(rng, colors, *, side, frame):
    """Round stones of several sizes: uint8 [side, side, 3]. colors: [5, 3]."""
    N = int(PEBBLES * (side / frame) ** 2)
    draws = rng.random((N, 5))
    outline = render.blob_outlines(
        lobes=2 + np.floor(2 * draws[:, 0]),
        phase=2 * pi * draws[:, 1],
        depth=np.full(N, 0.2),
        radius=(0.018 + 0.03 * draws[:, 2] ** 2) * frame,
    )
    color = colors[rng.choice([1, 2, 3, 4], N, p=[0.52, 0.16, 0.16, 0.16])].tolist()
    return render.fill_shapes(
        outline + side * draws[:, None, 3:], color, colors[0], side
    )


def _turned_plane(rng, side, frame):
    """x, y [side, side] of pixels on a plane of unit cells, and the side of a pixel there.

    Three to five cells span a frame; their axes have any direction.
    """
    turn, pixel = 2 * pi * rng.random(), (3 + 2 * rng.random()) / frame
    place = ((np.arange(side) + 0.5) * pixel).astype(np.float32)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = place[None, :], place[:, None]
    return cos * x + sin * y, cos * y - sin * x, pixel
