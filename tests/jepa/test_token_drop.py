"""Random token drop and views: counts, places, one decode, what the network is given."""

import colorsys
import functools

import jax
import numpy as np
import pytest
from clocks import STEADY, write_clock

from configs.jepa import get_config
from core.config import load_method
from core.data import source_names
from core.data.clips import CutViews, LocalViews, View, cut_views
from core.data.decoding.video import Reader
from jepa.inputs.color_jitter import (
    ViewJitter,
    draw_view_factors,
    standardize_views,
    turn_hue,
)
from jepa.inputs.token_drop import TokenDrop, count_kept, draw_kept, patches_at
from jepa.nets.model import MEAN, STD, patchify

GRID, LOCAL, PATCH = (4, 3, 5), (4, 2, 2), (2, 4, 4)
RNG = np.random.default_rng(0)


def test_five_percent_of_the_published_clip():
    """16 frames of 224 and of 96 pixels in patches of 16: 157 of 3136, 29 of 576."""
    assert count_kept((16, 14, 14), 0.05, False) == 157
    assert count_kept((16, 6, 6), 0.05, False) == 29
    assert count_kept((16, 14, 14), 0.05, True) == 160  # 10 of each frame
    assert count_kept((16, 14, 14), 1.0, False) == 3136


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (0.01, "leaves none of the 15 tokens of each time step of the 4x3x5 grid; use"),
        (0.0, "views.keep is 0.0; expected a share above 0"),
        (1.5, "views.keep is 1.5; expected a share above 0"),
    ],
)
def test_a_drop_that_leaves_no_token_is_refused(keep, words):
    with pytest.raises(ValueError, match=words):
        count_kept(GRID, keep, True)


def test_every_token_is_kept_equally_often():
    draws = np.stack([draw_kept(GRID, 6, False, RNG) for _ in range(4000)])
    assert (np.diff(draws) > 0).all()
    share = np.bincount(draws.ravel(), minlength=60) / len(draws)
    np.testing.assert_allclose(share, 0.1, atol=5 * (0.09 / 4000) ** 0.5)


def test_each_time_step_keeps_as_many():
    draws = np.stack([draw_kept(GRID, 8, True, RNG) for _ in range(3000)])
    assert (draws // 15 == np.repeat(np.arange(4), 2)).all()
    share = np.bincount(draws.ravel(), minlength=60) / len(draws)
    np.testing.assert_allclose(share, 2 / 15, atol=5 * (0.116 / 3000) ** 0.5)


def views(count=3):
    video = RNG.integers(0, 256, (8, 12, 20, 3), np.uint8)
    local = RNG.integers(0, 256, (count, 8, 8, 8, 3), np.uint8)
    return {"video": video, "local": local, "label": 1}


def test_patches_are_those_of_the_encoder():
    """And nothing else leaves the pipeline, labels least of all."""
    item = views()
    found = TokenDrop(PATCH, GRID, LOCAL, 0.5)(item, position=0, rng=RNG)
    assert found.keys() == {
        "patches", "index", "local_patches", "local_index", "local_mean"
    }  # fmt: skip
    whole = np.asarray(patchify(item["video"][None], PATCH))[0]
    assert found["index"].shape == (30,) and found["local_index"].shape == (3, 8)
    np.testing.assert_array_equal(found["patches"], whole[found["index"]])
    local = np.asarray(patchify(item["local"], PATCH))
    rows = np.take_along_axis(local, found["local_index"][..., None], 1)
    np.testing.assert_array_equal(found["local_patches"], rows)
    mean = item["local"].reshape(3, -1, 3).mean(1) / 255
    np.testing.assert_allclose(found["local_mean"], mean, rtol=1e-5)


def test_pixels_beyond_the_last_patch_are_left_out():
    video = RNG.integers(0, 256, (5, 9, 11, 3), np.uint8)
    whole = np.asarray(patchify(video[None], PATCH))[0]
    np.testing.assert_array_equal(patches_at(video, PATCH, np.arange(8)), whole)


VIEW = View(
    frames=4, fps=10, size=16, scale=(0.8, 1.0), flip=False,
    local=LocalViews(5, 8, (0.05, 0.3)),
)  # fmt: skip


def test_views_of_a_video_are_cut_from_one_decode(tmp_path, monkeypatch):
    path = tmp_path / "clock.mp4"
    write_clock(path, STEADY)
    decoded = []

    def decode(self, *args, usual=Reader.distinct_frames_at):
        decoded.append(args)
        return usual(self, *args)

    monkeypatch.setattr(Reader, "distinct_frames_at", decode)
    records = source_names.videos(str(tmp_path), "train", VIEW, None)
    found = records.load(0, np.random.default_rng(1))
    assert len(decoded) == 1
    assert found["video"].shape == (4, 16, 16, 3)
    assert found["local"].shape == (5, 4, 8, 8, 3)
    again = records.load(0, np.random.default_rng(1))
    np.testing.assert_array_equal(found["local"], again["local"])


def test_local_views_show_the_same_frames_in_smaller_parts():
    """Red grows with the column, green with the row, blue is the frame's number."""
    row, col = np.mgrid[:64, :64]
    frames = [np.stack([4 * col, 4 * row, 0 * row + 40 * t], -1) for t in range(4)]
    video = np.stack(frames).astype(np.uint8)
    area = {"whole": [], "local": []}
    mirrored = 0
    for i in range(60):
        found = cut_views(video, VIEW, np.random.default_rng(i))
        parts = found["local"].astype(float)
        assert (parts[..., 2] == 40 * np.arange(4)[:, None, None]).all()
        assert (parts[:, :1, ..., :2] == parts[..., :2]).all()  # one box for all frames
        for name, x in (("local", parts[:, 0]), ("whole", found["video"][None, 0])):
            side = x.shape[1]
            spans = [
                np.abs(np.float64(x[:, -1, -1, c]) - x[:, 0, 0, c]) for c in (0, 1)
            ]
            area[name] += list(np.prod(spans, 0) * (side / (side - 1) / 256) ** 2)
        mirrored += (parts[:, 0, 0, 0, 0] > parts[:, 0, 0, -1, 0]).sum()
        assert found["video"][0, 0, 0, 0] < found["video"][0, 0, -1, 0]
    assert min(area["whole"]) > 0.7 and max(area["local"]) < 0.35
    assert np.ptp(area["local"]) > 0.15 and 0.35 < mirrored / 300 < 0.65


def test_clips_of_the_world_are_cut_too():
    class Clips:
        def load(self, index, rng=None):
            return {"video": np.full((4, 20, 20, 3), index, np.uint8), "position": 0}

    found = CutViews(Clips(), VIEW).load(7, RNG)
    assert found.keys() == {"video", "local"} and (found["local"] == 7).all()


def test_hue_turns_as_in_hsv():
    colors = RNG.random((50, 3))
    colors[0], colors[1] = 0.3, (1, 0, 0)
    for turns in (0.0, 0.1, -0.35):
        wanted = [
            colorsys.hsv_to_rgb((h + turns) % 1, s, v)
            for h, s, v in (colorsys.rgb_to_hsv(*x) for x in colors)
        ]
        found = turn_hue(colors.astype(np.float32).T, np.float32(turns))
        np.testing.assert_allclose(np.stack(found, -1), wanted, atol=1e-5)


def test_factors_change_their_share_of_the_views():
    jitter = ViewJitter(0.4, 0.3, 0.2, 0.1, share=0.8, gray=0.2)
    draw = jax.jit(functools.partial(draw_view_factors, jitter, (500, 8)))
    factors = np.asarray(draw(jax.random.key(0)))
    flat = factors.reshape(-1, 5) - (1, 1, 1, 0, 0)
    changed = (flat[:, :4] != 0).all(1)
    assert (changed == (flat[:, :4] != 0).any(1)).all()  # all four or none
    error = 5 * (0.16 / 4000) ** 0.5
    assert abs(changed.mean() - 0.8) < error and abs(flat[:, 4].mean() - 0.2) < error
    assert set(np.unique(flat[:, 4])) == {0, 1}
    top = np.abs(flat[:, :4]).max(0)
    assert (top <= (0.4, 0.3, 0.2, 0.1)).all() and (top > 0.99 * top.max() / 4).all()
    with pytest.raises(ValueError, match="colour.gray is 1.5; expected 0 to 1"):
        draw_view_factors(ViewJitter(gray=1.5), (1,), jax.random.key(0))


def test_plain_factors_change_nothing_and_gray_takes_the_color():
    patches = RNG.integers(0, 256, (2, 3, 12), np.uint8)
    mean = np.full((2, 3), 0.5, np.float32)
    factors = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 0, 1]], np.float32)
    found = np.asarray(jax.jit(standardize_views)(patches, mean, factors))
    pixels = patches.reshape(2, 3, 4, 3) / 255
    back = found.reshape(2, 3, 4, 3) * STD + MEAN
    np.testing.assert_allclose(back[0], pixels[0], atol=1e-5)
    gray = pixels[1] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(back[1], np.repeat(gray[..., None], 3, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            "views.size",
            8,
            "views.size is 8 pixels, below one patch of 16; use 16 or 32",
        ),
        ("views.size", 40, "views.size is 40 pixels, no whole number of patches of 16"),
        ("views.count", 0, "views.count is 0; use 1 or more local views"),
        ("views.keep", 0.001, "leaves none of the 128 tokens of a view"),
        (
            "accumulate",
            2,
            "accumulate is 2, but SIGReg and batch norm look at all clips",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(field, value, words):
    config = get_config("tiny_levjepa")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=words):
        load_method(config)


def test_images_are_refused_where_videos_are_asked():
    config = get_config("tiny_levjepa")
    config.data.source = "images:photos"
    with pytest.raises(ValueError, match="is images:photos, which holds images"):
        load_method(config).source("train", (0, 1))
