"""Pictures show what they claim to."""

import cv2
import numpy as np
import pytest

from core.base.pictures import (
    caption,
    draw_points,
    encode_png,
    overlay_cells,
    pca_maps,
    tile,
    upscale,
)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_pca_finds_a_planted_subspace():
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(2 * 2 * 8 * 8, 3)) * (9, 4, 2)
    frame, _ = np.linalg.qr(rng.normal(size=(24, 24)))
    features = hidden @ frame[:, :3].T + 5 + 0.01 * rng.normal(size=(256, 24))
    maps = pca_maps(features.reshape(2, 2, 8, 8, 24).astype(np.float32))
    assert maps.shape == (2, 2, 8, 8, 3) and maps.dtype == np.uint8
    colours = maps.reshape(-1, 3) / 255.0
    u, s, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    for c in range(3):
        y = u[:, c]
        low, high = np.percentile(y, [1, 99])
        y = ((y - low) / (high - low)).clip(0, 1)
        off = min(np.abs(colours[:, c] - y).max(), np.abs(colours[:, c] - 1 + y).max())
        assert off < 3 / 255, c
    again = pca_maps(features.reshape(4, 1, 8, 8, 24)[::-1]).reshape(4, 64, 3)[::-1]
    np.testing.assert_allclose(again.reshape(-1, 3) / 255.0, colours, atol=1.5 / 255)


def test_pca_of_dull_or_broken_features():
    assert (pca_maps(np.ones((1, 1, 2, 2, 8))) == 128).all()
    assert (pca_maps(noise(1, 1, 4, 4, 2))[..., 2] == 128).all()
    with pytest.raises(ValueError, match="NaN"):
        pca_maps(np.full((1, 1, 2, 2, 8), np.nan))


def test_overlay_leaves_context_alone_and_marks_the_rest():
    frames = noise(4, 8, 8, 3)
    cells = np.random.default_rng(0).integers(0, 3, (2, 4, 4))
    shown = overlay_cells(frames, cells, tint=(0, 255, 0))
    kind = cells.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(shown[kind == 1], frames[kind == 1])
    r, g, b = np.moveaxis(shown[kind == 2].astype(int), -1, 0)
    assert (r == b).all() and (g - r > 100).all()
    unused = shown[kind == 0]
    assert (unused == unused[:, :1]).all() and unused.max() <= 64


def test_points_are_drawn_where_they_are():
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    true = np.array([[[0.25, 0.75], [np.nan, 0.5]]])
    predicted = np.array([[[0.75, 0.25], [1e30, 0.5]]])
    (picture,) = draw_points(frames, true, predicted)
    assert picture.shape == (256, 256, 3)
    for place, (x, y) in (("ring", (64, 192)), ("cross", (192, 64))):
        rows, columns = np.nonzero(picture[y - 16 : y + 16, x - 16 : x + 16].max(-1))
        assert len(rows), place
        np.testing.assert_allclose([rows.mean(), columns.mean()], 15.5, atol=0.1)
    assert not picture[:128, :128].any() and not picture[128:, 128:].any()
    assert not picture[192, 64].any() and picture[64, 192].any()  # hollow, crossed
    still = np.zeros_like(true)
    moving = draw_points(
        frames, true, predicted, true_velocity=still + np.array([0, -1])
    )[0]
    column = (moving != picture).any(-1)[:, 60:69].any(-1)
    assert column[130:180].all() and not column[:122].any()  # up by a quarter side


def test_grids_scale_and_captions():
    a, b, c = noise(4, 6, 3), noise(2, 3, 3), noise(5, 2, 3)
    sheet = tile([[a, b], [c]], pad=1)
    assert sheet.shape == (4 + 1 + 5, 6 + 1 + 3, 3)
    np.testing.assert_array_equal(sheet[:4, :6], a)
    np.testing.assert_array_equal(sheet[:2, 7:], b)
    np.testing.assert_array_equal(sheet[5:, :2], c)
    assert (sheet[4] == 255).all()
    clip = noise(2, 3, 4, 3)
    np.testing.assert_array_equal(upscale(clip, 3)[:, 1::3, 1::3], clip)
    titled = caption(upscale(a, 20), "a title of more words than a line can hold")
    head, body = titled[:-80], titled[-80:]
    np.testing.assert_array_equal(body, upscale(a, 20))
    assert len(head) > 30 and head.min() < 128 and (head[:, -1] == 255).all()


def test_a_clip_is_an_animated_png():
    clip = noise(6, 8, 10, 3)
    png = np.frombuffer(encode_png(clip), np.uint8)
    ok, film = cv2.imdecodeanimation(png)
    assert ok and film.loop_count == 0 and list(film.durations) == [125] * 6
    frames = np.stack([frame[..., 2::-1] for frame in film.frames])
    np.testing.assert_array_equal(frames, clip)
    still = cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(still, clip[0])
