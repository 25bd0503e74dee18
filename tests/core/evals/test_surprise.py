"""Surprise at twins and at videos of a table, against counted pairs."""

import json

import clocks
import numpy as np
import pytest

from core.base.waiting import Stopped
from core.data.pairs import read_pairs
from core.evals.paired_videos import evaluate_pairs
from core.evals.surprise import findings, surprise_scores
from core.method import UNWATCHED, Frozen, Watch

RNG = np.random.default_rng(0)


def test_scores_count_pairs():
    errors = RNG.random((30, 2, 3))
    errors[:20, 1] += 0.3
    found = surprise_scores(errors)
    lawful, unlawful = errors.max(-1).T
    area = (unlawful[:, None] > lawful).mean()
    assert found["auc"]["auc"] == pytest.approx(area)
    share = (errors[:, 1].mean(-1) > errors[:, 0].mean(-1)).mean()
    low, high = found["pairs"]["interval"]
    assert low < share < high
    assert found["pairs"]["mean"] == pytest.approx(share)
    first = np.arange(30) < 20
    numbers = findings("model", errors, {"rise": first, "never": first & ~first})
    right = (errors[:20, 1].mean(-1) > errors[:20, 0].mean(-1)).mean()
    assert numbers["model/pairs/rise"] == pytest.approx(right)
    assert "model/pairs/never" not in numbers
    same = np.ones((4, 2, 3))
    assert surprise_scores(same)["auc"]["auc"] == 0.5
    assert surprise_scores(same)["pairs"]["mean"] == 0.5


def bright(video):
    """Brightness of frames as errors: [B, T]."""
    return np.asarray(video, np.float64).mean((2, 3, 4))


FROZEN = Frozen(
    {},
    lambda weights, video: video,
    frames=2,
    fps=10.0,
    size=16,
    surprise={
        "bright": lambda state: lambda video: state * bright(video),
        "dark": lambda state: lambda video: -state * bright(video),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scenes of two possible videos and a brighter impossible one; the table."""
    place, rows = tmp_path_factory.mktemp("scenes"), ["path, scene, possible"]
    for scene in range(2):
        for name, gray, word in (("a", 40, "1"), ("b", 90, "true"), ("c", 160, "0")):
            path = f"{scene}{name}.mp4"
            image = np.full((16, 16, 3), gray + 90 * scene, np.uint8)
            clocks.write(place / path, [image] * 6, np.arange(6) / 10)
            rows.append(f"{path}, scene{scene}, {word}")
    (place / "table.csv").write_text("\n".join(rows) + "\n")
    return place


def test_impossible_videos_are_compared_with_those_of_their_scene(folder, tmp_path):
    scenes = read_pairs(str(folder / "table.csv"))
    assert scenes.possible == (True, True, False) * 2
    given = {"about": {"step": 3}, "clips": 2}
    found = evaluate_pairs(FROZEN, 1.0, scenes, tmp_path, watch=UNWATCHED, **given)
    scores = found["scores"]
    assert scores["bright/pairs"] == 1 and scores["dark/pairs"] == 0
    # Of the eight pairs of any scenes, one is wrong: 160 against 180.
    assert scores["bright/auc"] == 7 / 8 and scores["dark/auc"] == 1 / 8
    assert scores["bright/pairs_low"] == 1 and not found["bad_videos"]
    kept = json.loads((tmp_path / "pairs.json").read_text())
    assert kept["about"] == {"step": 3} and kept["scores"] == scores
    assert "| 1.00 (1.00 to 1.00) |" in (tmp_path / "pairs.md").read_text()
    with pytest.raises(Stopped):
        stop = Watch(stopping=lambda: True)
        evaluate_pairs(FROZEN, 1.0, scenes, tmp_path / "no", watch=stop, **given)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,scene\n0a.mp4,x\n", "expected 'possible' among them"),
        ("path,scene,possible\n0a.mp4,x,maybe\n", "row 1 has path '0a.mp4', scene 'x'"),
        ("path,scene,possible\n0a.mp4,x,1\n", "scene x has no impossible video"),
        (
            "path,scene,possible\n0a.mp4,x,1\nlost.mp4,x,0\n",
            "names 1 of 2 videos that do not exist below .*: lost.mp4",
        ),
        ("path,scene,possible\n", "has no rows"),
    ],
)
def test_wrong_tables_are_refused(folder, text, message):
    (folder / "wrong.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_pairs(str(folder / "wrong.csv"))
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match="none.csv is no file; expected a CSV"):
        read_pairs(str(folder / "none.csv"))
