"""The level textured: what is painted agrees with the labels of the other levels."""

import cv2
import numpy as np
import pytest

from core.data.bodies import levels, painting, palettes, patterns
from core.data.bodies.world import World

STILL = {"drift": 0.0}  # of the lighting


def painted(monkeypatch, value, body=0, **fields):
    """A record with one body in a single brightness."""

    def paint(rng, palette, bodies):
        drawn = palettes.draw_paint(rng, palette, bodies)
        drawn.colors[body] = value
        return drawn

    monkeypatch.setattr(levels, "draw_paint", paint)
    world = World(4, level="textured", overrides=STILL, masks=True, **fields)
    return world.load(6)


def grown(mask, outside=0):
    """A mask [T, H, W] and the pixels beside it. outside: its value beyond the frame."""
    kernel = np.ones((3, 3), np.uint8)
    edge = {"borderType": cv2.BORDER_CONSTANT, "borderValue": outside}
    return np.stack([cv2.dilate(m, kernel, **edge) for m in mask.astype(np.uint8)]) > 0


@pytest.mark.parametrize("body", range(3))
@pytest.mark.parametrize("size", [64, 96])
def test_a_body_is_painted_where_its_labels_are(monkeypatch, body, size):
    monkeypatch.setattr(painting, "AMBIENT", 1.0)
    monkeypatch.setattr(painting, "DIFFUSE", 0.0)  # so that colors stay as they are
    dark, bright = (painted(monkeypatch, x, body, size=size) for x in (10.0, 190.0))
    cover = (bright["video"].astype(float) - dark["video"]).mean(-1) / 180
    mask = dark["mask"] == body + 1
    assert (cover[~grown(mask)] == 0).all()
    assert np.abs(cover[~grown(grown(~mask, 1), 1)] - 1).max() < 0.02
    pixels = np.arange(size) + 0.5
    for t, share in enumerate(cover):
        place = np.array([share.sum(0) @ pixels, share.sum(1) @ pixels]) / share.sum()
        assert np.abs(place - size * dark["position"][t, body]).max() < 0.1
        area = np.pi * (size * dark["radius"][body]) ** 2
        assert abs(share.sum() / area - 1) < 0.03


def test_labels_are_those_of_plain():
    fields = {"variant": "violation", "masks": True, "overrides": {"occluders": 1}}
    plain, item = (World(2, level=x, **fields).load(5) for x in ("plain", "textured"))
    for name in plain.keys() - {"video", "color"}:
        np.testing.assert_array_equal(plain[name], item[name], err_msg=name)
    # The bar stands in front of the painted bodies as well.
    bar = np.abs(np.diff(item["video"].astype(int), axis=-1)).max((0, 1, 3)) <= 3
    assert bar.mean() > 0.3 and not item["mask"][:, :, bar].any()


def test_records_depend_on_seed_and_index_alone():
    world = World(7, level="textured")
    first = [world.load(i) for i in range(4)]
    for i in (2, 0, 3, 1):
        again = World(7, level="textured").load(i)
        for name in again:
            np.testing.assert_array_equal(first[i][name], again[name], err_msg=name)
    videos = [item["video"] for item in first] + [
        World(8, level="textured").load(0)["video"]
    ]
    assert len({video.tobytes() for video in videos}) == 5


def test_a_vanished_body_takes_its_shadow_along():
    world = World(
        5,
        level="textured",
        variant="violation",
        masks=True,
        overrides=STILL,
        breaches=(1,),
    )
    with_body, without = world.load(2), world.load(3)
    frame = int(without["violation_frame"])
    body = int(np.flatnonzero(without["visible"][frame] == 0)[0])
    here = with_body["mask"][frame] == body + 1
    lost = without["video"][frame].astype(int) - with_body["video"][frame]
    shade = lost.mean(-1) * ~grown(with_body["mask"] > 0)[frame]
    assert (shade >= 0).all() and shade.max() > 25
    y, x = np.mgrid[:64, :64] + 0.5
    place = np.array([(shade * x).sum(), (shade * y).sum()]) / shade.sum()
    middle = np.array([x[here].mean(), y[here].mean()])
    assert (place - middle > 1).all()  # light comes from the upper left


def test_the_ground_moves_by_the_pan():
    size, fps, headings = 96, 4.0, []
    world = World(1, level="textured", size=size, fps=fps, overrides=STILL, bodies=1)
    way = 4 * levels.LEVELS["textured"].pan * size / fps  # pixels in four frames
    turns = np.arange(120) / 120 * 2 * np.pi
    inner = slice(12, -12)
    for i in range(5):
        first, last = (world.load(i)["video"][t].astype(np.float32) for t in (0, 4))

        def error(x, y, first=first, last=last):
            shift = np.float32([[1, 0, x], [0, 1, y]])
            moved = cv2.warpAffine(first, shift, (size, size))
            return np.abs(moved - last)[inner, inner].mean(-1)

        found = [error(way * np.cos(a), way * np.sin(a)) for a in turns]
        found = [np.percentile(x, 80) for x in found]  # the rest shows the body
        headings.append(turns[int(np.argmin(found))])
        assert min(found) < 4 and min(found) < 0.5 * np.percentile(error(0, 0), 80)
    assert np.ptp(headings) > 1


@pytest.mark.parametrize("pattern", patterns.PATTERNS, ids=lambda f: f.__name__)
def test_patterns_are_smoothed_as_pixels_are(pattern):
    """Values of coarse pixels are the mean of fine ones, which the eye of a camera takes."""
    fine, n = 16, 24
    turn, pixel = 0.6, 0.2

    def plane(pixels, pixel):
        x = (np.arange(pixels) + 0.5) * pixel - 2.4
        x, y = x[None, :], x[:, None]
        x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        return pattern(x, y, pixel)

    sharp = plane(n * fine, pixel / fine)
    mean = sharp.reshape(n, fine, n, fine).mean((1, 3))
    error = np.abs(plane(n, pixel) - mean)
    assert error.mean() < 0.05 and error.max() < 0.45
    share = {patterns.dots: np.pi * 0.31**2}.get(pattern, 0.5)
    assert abs(sharp.mean() - share) < 0.05
