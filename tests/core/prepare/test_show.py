"""Pictures of data sets: labels, broken files, arrows of actions, and batches."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import robots
from clocks import STEADY, write_clock
from small import ROOT, small

from configs.dreamer import get_config
from core.base.pictures import arrows
from core.config import load_method
from core.prepare import show
from dreamer.pictures import sequences


def direction(tile):
    """(x, y) from the middle of a tile to the mean of its ink: toward the arrow's head."""
    y, x = np.nonzero(tile[..., 0] < 128)
    return x.mean() - (tile.shape[1] // 2), y.mean() - (tile.shape[0] // 2)


def test_arrows_have_the_direction_and_length_of_actions():
    actions = np.array([[1, 0, 9], [-1, 0, 9], [0, 2, 9], [0, -1, 9], [0, 0, 9]], float)
    right, left, down, up, none = map(direction, arrows(actions, width=80))
    assert right[0] > 4 > -4 > left[0] and abs(right[1]) < 1
    assert down[1] > -up[1] > 3 and abs(down[0]) < 1  # up is half as long
    assert np.abs(none).max() < 1
    [one] = arrows(np.array([[3.0]]), width=80)
    assert one.shape == (48, 80, 3) and direction(one)[0] > 8


def test_videos_with_labels_and_broken_ones(tmp_path, monkeypatch):
    said = []
    real = show.caption
    monkeypatch.setattr(
        show, "caption", lambda x, text: said.append(text) or real(x, text)
    )
    for i in range(2):
        write_clock(tmp_path / f"{i}.mp4", STEADY)
    (tmp_path / "2.mp4").write_text("no video")
    (tmp_path / "list.txt").write_text("0.mp4 7\n1.mp4 8\n2.mp4 9\n")
    picture = show.show(str(tmp_path / "list.txt"))
    assert said[:2] == ["0.mp4, label 7", "1.mp4, label 8"]
    assert "2.mp4: " in said[2] and "is text, not a video" in said[2]
    assert picture.dtype == np.uint8 and picture.shape[1] > 2 * 4 * 96


def test_a_batch_is_drawn_as_training_reads_it(tmp_path):
    for i in range(3):
        write_clock(tmp_path / f"{i}.mp4", STEADY)
    fields = {"data__source": str(tmp_path), "data__fps": 10.0}
    method = load_method(small(**fields))
    source = method.source("train", (0, 1))
    expected = method.tools.draw(source.next())
    source.close()
    found = show.draw_batch(str(tmp_path), small(data__fps=10.0))
    np.testing.assert_array_equal(found, expected)
    whole = show.show(str(tmp_path), small(data__fps=10.0))
    h, w, _ = expected.shape
    np.testing.assert_array_equal(whole[-h:, :w], expected)


def test_sequences_show_the_action_after_each_frame():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 5, 48, 48, 3)).astype(np.uint8),
        "action": np.zeros((2, 5, 2), np.float32),
        "reward": np.ones((2, 5), np.float32),
        "is_first": np.zeros((2, 5), bool),
    }
    batch["action"][0, 3] = 1, 0  # the action after the third frame
    picture = sequences(batch)
    row = picture[19 + 96 + 2 :][:48]  # below a caption and frames of 96 pixels
    inks = [direction(row[:, 98 * t : 98 * t + 96]) for t in range(5)]
    assert [x > 4 for x, _ in inks] == [False, False, True, False, False]


def test_the_command_reports_its_file_or_an_error(tmp_path):
    robots.write_replay(tmp_path / "set")

    def command(*arguments):
        line = [sys.executable, "-m", "launch.prepare", *arguments]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)

    drawn = str(tmp_path / "new" / "sheet.png")
    done = command(f"--show={tmp_path / 'set'}", f"--to={drawn}")
    assert done.returncode == 0 and drawn in done.stdout
    assert cv2.imread(drawn).shape[1] > 4 * 96
    done = command("--show=world")
    assert done.returncode == 1 and "add --config=FILE" in done.stderr
    done = command(f"--from={tmp_path / 'set'}", f"--to={tmp_path / 'x'}", "--fps=3")
    assert done.returncode == 1
    assert "holds trajectories; --fps is for videos" in done.stderr
    with pytest.raises(ValueError, match="dreamer.agent reads no data set"):
        show.draw_batch("world", get_config("reach"))
