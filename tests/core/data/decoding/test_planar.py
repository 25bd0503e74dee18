"""Planar pictures, compared with OpenCV and with the pipeline in RGB."""

import struct
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from clocks import STEADY, write, write_clock
from small import small

from core.config import load_method
from core.data.clips import View, read_clip, still_clip
from core.data.decoding.planar import empty_planar, rgb_to_planes, split_planes
from core.data.decoding.planar_rgb import planar_to_rgb
from core.data.decoding.video import open_video
from core.parallel.layouts import unbox


def scene(height=48, width=64, frames=12):
    """A clip with smooth colors that change: uint8 [frames, height, width, 3]."""
    rng = np.random.default_rng(0)
    tiny = rng.integers(90, 166, (3, 3, 4, 3)).astype(np.uint8)
    size = (width, height)
    a, b, c = (
        cv2.resize(x, size, interpolation=cv2.INTER_CUBIC).astype(float) for x in tiny
    )
    at = np.linspace(0, 1, frames)[:, None, None, None]
    clip = a * (1 - at) + b * at + 0.2 * (c - 128)
    return clip.clip(0, 255).astype(np.uint8)


def packed(image):
    """RGB [H, W, 3] -> planar [3 H / 2, W]."""
    found = np.empty((image.shape[0] * 3 // 2, image.shape[1]), np.uint8)
    for place, part in zip(split_planes(found), rgb_to_planes(image), strict=True):
        place[:] = part
    return found


def test_colors_equal_those_of_opencv():
    image = scene()[3]
    planes = rgb_to_planes(image)
    assert [x.shape for x in planes] == [(48, 64), (24, 32), (24, 32)]
    i420 = np.concatenate([x.ravel() for x in planes]).reshape(72, 64)
    expected = cv2.cvtColor(i420, cv2.COLOR_YUV2RGB_I420).astype(int)
    found = np.asarray(planar_to_rgb(packed(image)[None, None]))[0, 0].astype(int)
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - image).mean() < 2
    assert empty_planar(16).shape == (24, 16)
    video = image[None, None]
    assert planar_to_rgb(video) is video


def rotated(path):
    content = bytearray(Path(path).read_bytes())
    place = content.find(b"tkhd") + 4 + 40
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[place : place + 36] = clockwise
    return bytes(content)


@pytest.mark.parametrize("kind", ["plain", "odd", "ten bits", "rotated"])
def test_planar_clips_equal_rgb_clips(kind, tmp_path):
    clip = scene(49, 65) if kind == "odd" else scene()
    options, name = {}, "c.mp4"
    if kind == "ten bits":
        options, name = {"codec": "libx265", "pix_fmt": "yuv420p10le"}, "c.mkv"
    if kind == "odd":
        options = {"codec": "libx264rgb", "pix_fmt": "rgb24"}
    path = write(tmp_path / name, clip, STEADY[:12], **options)
    source = rotated(path) if kind == "rotated" else path
    shape = {"frames": 5, "fps": 10, "size": 32}
    for seed in range(6):
        for more in ({}, {"kind": "center"}, {"crops": 3}):
            views = [View(**shape, **more), View(**shape, **more, planar=True)]
            rgb, planar = (
                read_clip(source, x, np.random.default_rng(seed)) for x in views
            )
            assert planar.shape == (*rgb.shape[:-3], 48, 32)
            found = np.asarray(planar_to_rgb(planar.reshape(-1, 5, 48, 32)))
            gap = np.abs(found.astype(int) - rgb.reshape(found.shape))
            # Boxes move a little when an odd last row and column are left out.
            most = 6 if kind == "odd" else 3
            assert gap.mean() < most and gap.max() < 40, (seed, more)


def test_standard_frames_are_not_converted(tmp_path, monkeypatch):
    path = write_clock(tmp_path / "c.mp4", STEADY)
    monkeypatch.setattr("core.data.decoding.frames.frame_rgb", None)
    view = View(frames=3, fps=10, size=16, planar=True)
    assert read_clip(path, view, np.random.default_rng(0)).shape == (3, 24, 16)
    with open_video(path) as video:
        bright = video.frames_at([0.5], lambda h, w: lambda x: x[0], planar=True)
    assert bright.shape == (1, 48, 64)


def test_planar_images():
    image = scene()[0]
    view = View(frames=2, fps=1, size=48, kind="center")
    rgb = still_clip(image, view, None)
    planar = still_clip(
        image, View(frames=2, fps=1, size=48, kind="center", planar=True), None
    )
    gap = np.abs(np.asarray(planar_to_rgb(planar[None]))[0].astype(int) - rgb)
    assert gap.mean() < 2


def test_a_step_converts_planar_clips(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.mp4", scene(), STEADY[:12])
    fields = {"data__source": str(tmp_path), "data__fps": 10.0}
    method = load_method(small(**fields, data__planar=True))
    source = method.source("train", (0, 1))
    batch = source.next()
    source.close()
    assert batch["video"].shape == (8, 4, 96, 64)
    state = jax.jit(lambda: unbox(method.init(jax.random.key(0))))()
    # Of the step, only what the loss needs is compiled.
    loss = jax.jit(lambda state, batch: method.step(state, batch)[1]["loss"])
    planar = loss(state, batch)
    batch["video"] = np.asarray(planar_to_rgb(batch["video"]))
    # Two programs: XLA may round sums differently.
    np.testing.assert_allclose(planar, loss(state, batch), rtol=2e-7)
    with pytest.raises(ValueError, match="data.planar is True, but the world decodes"):
        load_method(small(data__planar=True)).source("train", (0, 1))
    with pytest.raises(
        ValueError, match="size is 15; planar pictures need an even size"
    ):
        View(size=15, planar=True)
