"""Difficulty levels of the world: appearance settings, and what is drawn from them."""

from dataclasses import dataclass
from math import ceil, pi
from typing import NamedTuple

import cv2
import numpy as np

from core.data.bodies import render
from core.data.bodies.painting import Paint
from core.data.bodies.palettes import PALETTES, Palette, draw_ground, draw_paint


@dataclass(frozen=True)
class Level:
    """Appearance of clips. Pairs are (low, high) ranges from which each clip draws.

    Lengths are in frame sides, brightness and contrast in 0..255.
    """

    # The scene. Only these change the trajectories.
    radius: tuple = (0.09, 0.13)  # of the disc of equal area
    speed: tuple = (0.3, 0.7)  # sides per second, at the start
    gravity: tuple = (0.4, 1.2)  # sides per second squared
    # The bodies.
    hue_jitter: float = 0.04  # turns around the body's own hue; 0.5 is any hue
    saturation: tuple = (0.8, 1.0)
    contrast: float = 1.0  # 0: the background's mean, 1: the full color
    body_texture: float = 40.0  # difference of the pinwheel's two colors
    # Of these a clip draws one: bodies and ground then have patterns in its colors, bodies
    # have shading and cast shadows. The other settings of bodies and textures are not used.
    palettes: tuple[Palette, ...] = ()
    # The background.
    background: tuple = (30.0, 60.0)  # mean brightness
    texture: float = 8.0  # contrast
    texture_cells: tuple = (3, 8)  # patches along the frame, per octave
    texture_chroma: float = 0.0  # 0 gray, 1 colored
    pan: float = 0.0  # sides per second
    flicker: float = 0.0  # contrast of a second texture, new in every frame
    flicker_cells: tuple = (4, 8)
    # The whole picture.
    drift: float = 0.05  # amplitude of the lighting's change, relative
    noise: float = 0.0  # standard deviation per pixel, frame and channel
    # Moving blobs that are not bodies; half of them pass in front.
    distractors: int = 0
    distractor_size: tuple = (0.04, 0.08)  # radius
    # Gray bars from top to bottom, in front of everything; each hides a body for a while.
    occluders: int = 0
    occluder_width: tuple = (0.34, 0.42)
    occluder_shade: tuple = (60.0, 120.0)  # brightness


LEVELS = {
    "plain": Level(),
    # Bodies of similar colors. A network with a pixel loss learns them together; of pure
    # colors it may learn only the first one for a long time.
    "pastel": Level(saturation=(0.3, 0.5)),
    # Noise that cannot be predicted from other parts of a clip: it hides the bodies from
    # untrained features, while trained features ignore it.
    "cluttered": Level(
        hue_jitter=0.05,
        saturation=(0.7, 1.0),
        body_texture=80.0,
        background=(90.0, 130.0),
        texture=40.0,
        texture_cells=(4, 8, 16),
        texture_chroma=0.3,
        pan=0.15,
        drift=0.1,
        noise=110.0,
        distractors=2,
        distractor_size=(0.04, 0.1),
    ),
    # To look at: solid bodies over a floor. The colors of each body are also those of spots
    # on the ground, so that a mean color does not give a body away.
    "textured": Level(palettes=PALETTES, pan=0.12, drift=0.1),
    "hard": Level(
        hue_jitter=0.5,
        saturation=(0.4, 1.0),
        contrast=0.8,
        body_texture=80.0,
        background=(60.0, 160.0),
        texture=160.0,
        texture_cells=(4, 8, 16),
        texture_chroma=0.9,
        pan=0.15,
        flicker=120.0,
        drift=0.4,
        noise=6.0,
        distractors=6,
        distractor_size=(0.04, 0.1),
    ),
}


class Look(NamedTuple):
    """Colors of a clip of K bodies."""

    ground: np.ndarray  # uint8 [side, side, 3], what is behind everything
    offset: np.ndarray  # [T, 2], its pixel at the corner of each frame
    color: np.ndarray  # [K, 3] in 0..1, main colors of the bodies
    pair: np.ndarray  # [K, 2, 3] in 0..255, the two colors of each
    paint: tuple[Paint, ...]  # one if bodies have patterns


def flat_look(stream, level, *, bodies, frames, fps, size):
    """Look of pinwheels over a texture of noise. stream: name -> random generator."""
    rng = stream("texture")
    brightness, heading = _between(level.background, rng.random()), rng.random()
    offset = pan_path(heading, frames=frames, speed=level.pan * size / fps)
    texture = render.make_texture(
        rng,
        side=size + ceil(offset.max()),
        frame=size,
        cells=level.texture_cells,
        chroma=level.texture_chroma,
        contrast=level.texture,
    )
    ground = (texture + brightness).clip(0, 255).astype(np.uint8)
    color, pair = sprite_colors(
        stream("color").random((bodies, 2)),
        level,
        hue=np.arange(bodies) / bodies,
        jitter=level.hue_jitter,
        base=mean_color(ground),
    )
    return Look(ground, offset, color, pair, ())


def patterned_look(stream, level, *, bodies, frames, fps, size):
    """Look in the colors of a palette. stream: name -> random generator."""
    palette = level.palettes[stream("color").integers(len(level.palettes))]
    rng = stream("texture")
    offset = pan_path(rng.random(), frames=frames, speed=level.pan * size / fps)
    side = size + ceil(offset.max())
    ground = draw_ground(rng, palette, side=side, frame=size)
    paint = draw_paint(stream("paint"), palette, bodies)
    return Look(ground, offset, paint.colors[:, 0] / 255, paint.colors, (paint,))


def pan_path(heading, *, frames, speed):
    """The corner of each frame in a texture over which a camera pans: [T, 2], from 0.

    heading: in turns. speed: pixels per frame.
    """
    path = np.arange(frames)[:, None] * speed
    path = path * [np.cos(2 * pi * heading), np.sin(2 * pi * heading)]
    return path - path.min(0)


def mean_color(ground):
    """Of a texture uint8 [side, side, 3], in 0..255; numpy takes ten times as long."""
    return np.array(cv2.sumElems(ground)[:3]) / (ground.shape[0] * ground.shape[1])


def make_flicker(rng, level, *, frames, size):
    """Unpredictable color behind the bodies, like foliage or water: T textures
    [size, size, 3] around 0.
    """
    look = {"cells": level.flicker_cells, "chroma": 1.0, "contrast": level.flicker}
    return [
        render.make_texture(rng, side=size, frame=size, **look) for _ in range(frames)
    ]


def make_distractors(rng, level, *, frames, fps, base):
    """Two Sprites, behind and in front of the bodies: blobs on straight or curved paths.

    base [3]: mean color of the background, 0..255.
    """
    N = level.distractors
    draws = rng.random((N, 12))  # a row each: more blobs do not change the first
    x, y, heading, speed, curve, bent, lobes, phase, spin, radius = draws.T[:10]
    time = np.arange(frames)[:, None] / fps
    curve = np.where(bent < 0.5, 0.0, _between((-3, 3), curve))
    # An arc's chord points where its middle heads; sinc is chord over arc.
    middle = 2 * pi * heading + curve * time / 2
    chord = time * _between((0.2, 0.6), speed) * np.sinc(curve * time / 2 / pi)
    place = np.stack([x + chord * np.cos(middle), y + chord * np.sin(middle)], -1)
    edge = 1.3 * level.distractor_size[1]
    place = (place + edge) % (1 + 2 * edge) - edge  # wrap around outside the frame
    blobs = render.Sprites(
        outline=render.blob_outlines(
            lobes=2 + np.floor(4 * lobes),
            phase=2 * pi * phase,
            depth=np.full(N, 0.25),
            radius=_between(level.distractor_size, radius),
        ),
        colors=sprite_colors(draws[:, 10:], level, hue=0.0, jitter=0.5, base=base)[1],
        convex=np.zeros(N, bool),
        position=place,
        angle=time * _between((-4, 4), spin),
        shown=np.ones((frames, N), bool),
    )
    return [render.pick_sprites(blobs, slice(first, None, 2)) for first in (1, 0)]


def make_occluders(rng, level, *, frames):
    """Sprites that stand in front of all others: bars at random places."""
    N = level.occluders
    width, place, shade = rng.random((N, 3)).T
    width = _between(level.occluder_width, width)
    corners = np.array([[-0.5, -0.6], [0.5, -0.6], [0.5, 0.6], [-0.5, 0.6]])
    outline = render.subdivide(corners) * np.stack([width, np.ones(N)], -1)[:, None]
    x = width / 2 + (1 - width) * place
    gray = _between(level.occluder_shade, shade)
    return render.Sprites(
        outline=outline,
        colors=np.broadcast_to(gray[:, None, None], (N, 2, 3)),
        convex=np.ones(N, bool),
        position=np.broadcast_to(np.stack([x, np.full(N, 0.5)], -1), (frames, N, 2)),
        angle=np.zeros((frames, N)),
        shown=np.ones((frames, N), bool),
    )


def sprite_colors(draws, level, *, hue, jitter, base):
    """Colors of N sprites from draws [N, 2] in 0..1, around hues in turns.

    base [3]: mean color of the background, 0..255. Returns the mean colors in 0..1 [N, 3],
    and the two colors of each pinwheel in 0..255 [N, 2, 3].
    """
    full = render.hue_color(
        hue + jitter * (2 * draws[:, 0] - 1), _between(level.saturation, draws[:, 1])
    )
    color = base / 255 + level.contrast * (full - base / 255)
    half = level.body_texture / 2
    # Colors near 0 or 255 move inward, which keeps the contrast.
    middle = (color * 255).clip(half, 255 - half)
    return middle / 255, middle[:, None] + [[half], [-half]]


def make_noise(rng, level, shape):
    """Uniform noise around 0 with the level's standard deviation; yields T frames, float32.

    shape: (T, size, size, 3). Made of random bytes, which are fast to draw.
    """
    raw = np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
    scale = np.float32(level.noise / 73.9)  # bytes deviate by 73.9 around 127.5
    table = np.arange(256, dtype=np.float32) * scale - 127.5 * scale
    for frame in raw:
        yield cv2.LUT(frame, table)


def _between(pair, share):
    return pair[0] + (pair[1] - pair[0]) * share
