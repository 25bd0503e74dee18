"""Gates of exports: which findings pass, and the sentence for each that does not."""

import json
import pathlib
from types import SimpleNamespace

import pytest

from core.export import gates
from core.runs import lineage

ABOUT = {"step": 7, "checkpoint": "c/7", "digest": "new", "data": [], "revision": "r"}
PROBE = {"trained/position": 0.9, "trained/velocity": 0.5, "broken": float("nan")}


@pytest.fixture
def opened(tmp_path):
    """What gates read of a checkpoint that was evaluated."""
    method = SimpleNamespace(
        evals={"probe": None, "health": None},
        better={"probe.*": "higher", "pixels.*": ""},
    )
    path = tmp_path / lineage.LINEAGE
    record(path, "probe", {"trained/position": 0.1, "old": 1.0})
    record(path, "probe", PROBE)
    record(path, "health", {"loss": 0.25}, digest="before")
    record(path, "pixels", {"accuracy": 0.3})
    record(path, "labels", {"knn": {"accuracy": 0.8, "interval": [0.75, 0.85]}})
    record(path, "probe", {"trained/position": 0.95}, digest="later", step=8)
    with open(path, "ab") as file:
        file.write(b'{"torn')
    return SimpleNamespace(
        lineage=path, method=method, checkpoint=pathlib.Path("c/7"), step=7
    )


def record(path, name, findings, **changes):
    lineage.record_evaluation(path, ABOUT | changes, name, findings)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("probe.trained/position>=0.9", ("probe", "trained/position", ">=", 0.9)),
        (" a.b.c/d.e < -1e-3 ", ("a", "b.c/d.e", "<", -1e-3)),
        ("a.b>2", ("a", "b", ">", 2.0)),
        ("a.b<=inf", ("a", "b", "<=", float("inf"))),
    ],
)
def test_the_grammar_of_a_gate(text, parsed):
    assert gates.parse_gates([text]) == [parsed]
    assert len(gates.parse_gates([f"{text},{text}", text])) == 3


@pytest.mark.parametrize(
    "text", ["", "probe>=1", "a.b=1", "a.b>=x", "a.b>=nan", "a.b>=", ".b>=1", "a.b==1"]
)
def test_other_text_is_refused(text):
    with pytest.raises(
        ValueError, match="--require is .*; expected EVAL.METRIC, one of"
    ):
        gates.parse_gates([text])


def check(opened, *texts):
    found = gates.find_evaluations(opened, ABOUT)
    assert found.damaged == [f"{opened.lineage}: line 7 is damaged"]
    gates.check_gates(gates.parse_gates(texts), found, opened)


def test_the_newest_evaluation_of_the_same_weights_counts(opened):
    check(opened, "probe.trained/position>=0.9", "labels.knn/accuracy>0.7")
    check(opened, "probe.trained/position<=0.9,probe.trained/velocity<0.6")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("probe.trained/position>0.9", "probe.trained/position is 0.9, wanted >0.9"),
        ("probe.broken>=0", "probe.broken is nan, wanted >=0"),
        ("probe.broken<0", "probe.broken is nan, wanted <0"),
        (
            "probe.trained/positon>=0",
            r"has never measured 'trained/positon' \(did you mean 'trained/position'",
        ),
        ("probe.old>=0", "has never measured 'old'; it has broken, trained/position, "),
        (
            "health.loss<1",
            "its evaluation 'health' of 20.* is older than it; run python",
        ),
        (
            "prob.x>1",
            r"evaluation 'prob' \(did you mean 'probe'\?\) is missing in .*jsonl",
        ),
        ("pictures.x>1", "evaluation 'pictures' is missing in"),
        ("probe.broken>1,prob.x>1", "wanted >1; prob.x>1: evaluation 'prob'"),
    ],
)
def test_a_gate_that_is_not_passed_says_why(text, words, opened):
    with pytest.raises(ValueError, match=words) as caught:
        check(opened, text)
    assert str(caught.value).startswith("--require refuses c/7: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("health.loss_masked", "lower"),
        ("episodes.score", "higher"),
        ("labels.knn/accuracy", "higher"),
        ("x.velocity/mse", "lower"),
        ("x.R2", "higher"),
        ("x.glossy", ""),
        ("probe.loss", "higher"),  # the method says so
        ("pixels.accuracy", ""),
    ],
)
def test_which_direction_is_better(metric, direction, opened):
    assert gates.better(metric, opened.method.better) == direction


def promoted(folder, findings, **more):
    known = {"files": {"x": ""}, "promoted": ["a.b>1"], "findings": findings}
    (folder / "provenance.json").write_text(json.dumps(known | more))
    return folder


def compare(opened, folder):
    found = gates.find_evaluations(opened, ABOUT)
    return gates.check_not_worse(folder, found, opened)


def test_an_equal_or_better_checkpoint_passes(opened, tmp_path):
    before = {"probe.trained/position": 0.9, "labels.knn/accuracy": 0.7}
    before |= {
        "gone.score": 1.0,
        "pixels.accuracy": 0.9,
        "probe.trained/velocity": "nan",
    }
    folder = promoted(tmp_path, before)
    assert compare(opened, folder) == [
        f"not compared with {folder}: gone.score is not measured here",
        f"not compared with {folder}: pixels.accuracy: which values are better is not known",
        f"not compared with {folder}: probe.trained/velocity: was NaN",
    ]


def test_every_regression_is_named(opened, tmp_path):
    before = {
        "probe.trained/position": 0.91,
        "probe.broken": 0.1,
        "labels.knn/accuracy": 1,
    }
    record(opened.lineage, "health", {"loss": 0.3})
    folder = promoted(tmp_path, before | {"health.loss": 0.2})
    with pytest.raises(ValueError) as caught:
        compare(opened, folder)
    assert str(caught.value) == (
        f"c/7 is worse than {folder}: probe.trained/position is 0.9, was 0.91; probe.broken "
        "is nan, was 0.1; labels.knn/accuracy is 0.8, was 1; health.loss is 0.3, was 0.2"
    )


@pytest.mark.parametrize(("low", "passes"), [(0.79, True), (0.81, False)])
def test_inside_the_interval_is_no_regression(low, passes, opened, tmp_path):
    intervals = {"labels.knn/accuracy": [low, 0.95]}
    folder = promoted(tmp_path, {"labels.knn/accuracy": 0.9}, intervals=intervals)
    if passes:
        assert compare(opened, folder) == []
        return
    with pytest.raises(ValueError, match="is 0.8, was 0.9, interval 0.810 to 0.950"):
        compare(opened, folder)


def test_only_a_promoted_export_is_compared_with(opened, tmp_path):
    with pytest.raises(ValueError, match=r"provenance.json does not exist"):
        compare(opened, tmp_path)
    with pytest.raises(ValueError, match="was not promoted; expected an export"):
        compare(opened, promoted(tmp_path, {}, promoted=[]))
    with pytest.raises(
        ValueError, match="shares no metric with .*, which has other.loss"
    ):
        compare(opened, promoted(tmp_path, {"other.loss": 1.0}))
