"""The lineage of a run: whole lines from many processes, and which weights each is of."""

import hashlib
import json
import subprocess
import sys

import pytest
from small import ROOT

from core.base.digests import write_sums
from core.runs import integrity, lineage
from core.runs.writer import FolderError

ABOUT = {"step": 3, "checkpoint": "c/3", "digest": "abc", "data": [], "revision": "r"}


def saved(folder, step=3, *, began=0.0, content="x"):
    """A folder like that of a checkpoint whose write began at a time."""
    place = folder / "checkpoints" / str(step)
    place.mkdir(parents=True, exist_ok=True)
    (place / "state").write_text(content)
    write_sums(place, ["state"])
    times = {"init_timestamp_nsecs": int(began * 1e9)}
    (place / integrity.METADATA).write_text(json.dumps(times))
    return place


def test_a_line_holds_all_that_is_known(tmp_path):
    place = saved(tmp_path)
    data = [{"place": "/d", "digest": "d1"}, {"place": ""}]
    (tmp_path / "provenance.json").write_text(json.dumps({"data": data}))
    path = tmp_path / lineage.LINEAGE
    about = lineage.subject(place, 3)
    findings = {"knn": {"accuracy": 0.5, "interval": [0.4, 0.6], "why": "text"}}
    lineage.record_evaluation(path, about, "labels", findings | {"loss": float("nan")})
    [line] = [json.loads(x) for x in path.read_text().splitlines()]
    assert line.pop("time")[:2] == "20" and len(line.pop("revision")) > 6
    assert line == {
        "kind": "evaluation",
        "evaluation": "labels",
        "findings": {"knn/accuracy": 0.5, "loss": "nan"},
        "intervals": {"knn/accuracy": [0.4, 0.6]},
        "step": 3,
        "checkpoint": str(place),
        "digest": hashlib.sha256((place / "SHA256SUMS").read_bytes()).hexdigest(),
        "data": ["d1", ""],
    }
    assert len(list(lineage.read(path))) == 1


APPEND = """
import pathlib, sys
from core.runs import lineage
for i in range(25):
    lineage.append(pathlib.Path(sys.argv[1]), "evaluation",
                   {**{about}, "evaluation": sys.argv[2] + "x" * 9000, "findings": {"i": i}})
"""


def test_processes_that_append_at_once_lose_no_line(tmp_path):
    path = tmp_path / "lineage.jsonl"
    path.write_bytes(b'{"time": "torn')
    code = APPEND.replace("{about}", repr(ABOUT))
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], cwd=ROOT)
        for name in "ab"
    ]
    assert [w.wait() for w in writers] == [0, 0]
    damaged, *lines = lineage.read(path)
    assert damaged == f"{path}: line 1 is damaged"
    for name in "ab":
        mine = [x for x in lines if x["evaluation"][0] == name]
        assert [x["findings"]["i"] for x in mine] == list(range(25))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"time": "2026-01-01T00:00:00+00:00", "ki', "is damaged"),
        (b'{"kind": "evaluation"}\n', "is damaged"),
        (b'{"time": "2026-01-01T00:00:00+00:00", "kind": "other"}\n', "is damaged"),
        (b'{"time": "2026-01-01T00:00:00+00:00", "kind": "export"}\n', "lacks fields"),
        (b"\xff\xfe\n", "is damaged"),
        (b"[1]\n", "is damaged"),
    ],
)
def test_a_damaged_line_is_named_and_others_are_read(text, words, tmp_path):
    path = tmp_path / "lineage.jsonl"
    lineage.record_evaluation(path, ABOUT, "probe", {"x": 1})
    with open(path, "ab") as file:
        file.write(text)
    first, second = lineage.read(path)
    assert first["findings"] == {"x": 1}
    assert second == f"{path}: line 2 {words}"


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"cannot write .*file/lineage.jsonl"):
        lineage.record_evaluation(tmp_path / "file" / "lineage.jsonl", ABOUT, "x", {})


def test_weights_are_known_by_their_files_and_copies_are_the_same(tmp_path):
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b")
    other = saved(tmp_path / "c", content="y")
    assert lineage.identity(a) == lineage.identity(b) != lineage.identity(other)
    assert lineage.step_folder(tmp_path / "a") == a
    assert lineage.identity(tmp_path / "a" / "checkpoints" / "4") == ""
    published = tmp_path / "published"
    published.mkdir()
    (published / "model.safetensors").write_text("w")
    before = lineage.identity(published)
    (published / "config.json").write_text("{}")
    assert len({before, lineage.identity(published), ""}) == 3
    file = published / "model.safetensors"
    assert lineage.identity(file) == hashlib.sha256(b"w").hexdigest()


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ({"digest": "this"}, True),
        ({"digest": "other"}, False),
        # In training: the checkpoint was not written yet.
        ({"digest": "", "time": "2026-01-01T00:00:11+00:00"}, True),
        ({"digest": "", "time": "2026-01-01T00:00:09+00:00"}, False),
        ({"digest": "", "time": "2026-01-01T00:00:11+00:00", "step": 2}, False),
    ],
)
def test_a_line_is_of_the_same_weights_or_not(line, same, tmp_path):
    began = 1767225610.0  # 2026-01-01 00:00:10 UTC
    about = {**ABOUT, "checkpoint": str(saved(tmp_path, began=began)), "digest": "this"}
    line = {"step": 3, "time": "2020-01-01T00:00:00+00:00"} | line
    assert lineage.of_same_weights(line, about) is same
