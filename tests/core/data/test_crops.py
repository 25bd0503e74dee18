"""Several crops of each decoded clip: same frames, own samples, counted as samples."""

import itertools

import numpy as np
import pytest
from clocks import STEADY, read_clock, write_clock
from numbered import Several, add_mask, assert_same, take
from small import small, steady, use_one_device

from core import train
from core.data import clips
from core.data.clips import View, read_clip
from core.data.loading.pipeline import make_source

CROPS = 4


def source_of(*, n=12, bad=(), batch=8, **options):
    options |= {"seed": 3, "transform": add_mask, "crops": CROPS, "max_bad_share": 0.5}
    return make_source(Several(n, CROPS, bad=bad), batch=batch, **options)


@pytest.fixture(scope="module")
def reference():
    source = source_of(bad=[5])
    samples = take(source, 12)  # two epochs
    source.close()
    return samples, source.report()


def test_crops_of_a_video_are_consecutive_samples(reference):
    samples, report = reference
    np.testing.assert_array_equal(samples["position"], np.arange(96))
    record = samples["record"].reshape(24, CROPS)
    assert (record == record[:, :1]).all()
    for epoch in (record[:12, 0], record[12:, 0]):
        assert len(set(epoch)) == 11  # all but the bad one, which is replaced
    # Each sample has its own noise and mask.
    for name in ("noise", "mask"):
        assert len({tuple(x) for x in samples[name]}) == 96
    assert report["seen"] == 96 and report["bad"] == 2 * CROPS
    assert [x["name"] for x in report["new"]] == ["number 5"] * 2
    assert all(x["position"] % CROPS == 0 for x in report["new"])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_hosts_change_nothing(reference, workers):
    whole = {k: np.zeros_like(v) for k, v in reference[0].items()}
    for host in range(2):
        source = source_of(bad=[5], shard=(host, 2), workers=workers)
        part = take(source, 12)
        source.close()
        for k, v in part.items():
            pairs = whole[k].reshape(12, 2, CROPS, *v.shape[1:])
            pairs[:, host] = v.reshape(12, CROPS, *v.shape[1:])
    assert_same(whole, reference[0])


def test_resume_with_another_batch_size(reference):
    first = source_of(bad=[5])
    take(first, 3)
    state = first.get_state()
    assert state["next_index"] == state["seen"] == 24
    again = source_of(bad=[5], batch=24)
    again.set_state(state)
    assert_same(take(again, 3), {k: v[24:] for k, v in reference[0].items()})


def test_a_batch_holds_whole_groups():
    with pytest.raises(
        ValueError, match="2 hosts and 4 crops of each video; use 8 or 16"
    ):
        source_of(batch=12, shard=(0, 2))


def test_crops_share_frames_that_are_decoded_once(tmp_path, monkeypatch):
    path = write_clock(tmp_path / "c.mp4", STEADY)
    opened, open_video = [], clips.open_video
    monkeypatch.setattr(
        clips, "open_video", lambda x: opened.append(x) or open_video(x)
    )
    view = View(frames=4, fps=10, size=16, crops=3)
    found = read_clip(path, view, np.random.default_rng(0))
    assert found.shape == (3, 4, 16, 16, 3) and len(opened) == 1
    times = [read_clock(clip) for clip in found]
    assert (times[0] == times[1]).all() and (times[0] == times[2]).all()
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    stills = clips.still_clip(image, view, np.random.default_rng(0))
    assert stills.shape == found.shape and (stills[:, :1] == stills).all()
    assert all((a != b).any() for a, b in itertools.combinations(stills[:, 0], 2))
    assert clips.with_label(found, 7, view)["label"].tolist() == [7, 7, 7]


def test_it_trains(tmp_path, monkeypatch):
    use_one_device(monkeypatch)
    for i in range(3):
        write_clock(tmp_path / f"{i}.mp4", STEADY)
    fields = {"data__source": str(tmp_path), "data__fps": 10.0, "data__crops": 4}
    train.fit(steady(**fields, steps=2), tmp_path / "run")
    with pytest.raises(
        ValueError, match="data.crops is 4, but the world decodes nothing"
    ):
        train.fit(small(data__crops=4), tmp_path / "world")
