"""A user's mistake is reported in one sentence that says how to fix it."""

import functools
import json
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest
from ml_collections import ConfigDict
from small import (
    ROOT,
    record,
    share_programs,
    small,
    start,
    steady,
    use_one_device,
)

from core import train
from core.config import load_method
from core.data.loading.pipeline import Source
from core.parallel import distributed
from core.runs import checkpoint
from launch import config as command_line

TINY = "configs/jepa.py:tiny"


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        share_programs(patch)
        yield


@pytest.fixture(scope="module")
def trained(one_device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train.fit(steady(steps=2, save_steps=1), folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run of two steps."""
    return shutil.copytree(trained, tmp_path / "run")


def error_of_fit(config, folder, **options) -> str:
    """The message of the error that `fit` raises, which is one sentence."""
    with pytest.raises((ValueError, OSError)) as caught:
        train.fit(config, folder, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600, text
    return text


@pytest.mark.parametrize(
    ("place", "overrides", "words"),
    [
        (
            "configs/jpa.py:tiny",
            (),
            "no config file configs/jpa.py; did you mean configs/j",
        ),
        ("configs", (), "there is no config file configs"),
        (
            "configs/jepa.py:tny",
            (),
            "has no preset 'tny'; use one of tiny, atari, rooms, arm",
        ),
        (TINY, ["batchs=3"], "config has no field batchs; did you mean batch?"),
        (TINY, ["data.sorce=x"], "no field data.sorce; did you mean data.source?"),
        (TINY, ["optimizer.peak=1"], "did you mean optimizer.lr.peak?"),
        (TINY, ["batch.size=3"], "config has no field batch.size"),
        (TINY, ["batch=abc"], "config.batch is 'abc'; use a whole number, such as 16"),
        (TINY, ["batch=1.5"], "config.batch is '1.5'; use a whole number"),
        (TINY, ["batch=true"], "config.batch is 'true'; use a whole number"),
        (TINY, ["data.flip=2"], "config.data.flip is '2'; use true or false"),
        (TINY, ["optimizer.eps=x"], "config.optimizer.eps is 'x'; use a number, such"),
        (TINY, ["data.scale=0.3"], "use 2 values, such as (0.3, 1.0)"),
        (TINY, ["data.scale=(0.3,x)"], "use 2 values, such as (0.3, 1.0)"),
        (
            "configs/jepa.py:atari",
            ["objects.heads=(1,2)"],
            "config.objects.heads is '(1,2)'; use names with commas between, such as ridge",
        ),
        (
            "configs/dreamer.py:tiny",
            ["env.task=gym:CartPole-v1"],
            "no field env.task; this preset learns from recordings; reach acts in an env",
        ),
        (
            "configs/dreamer.py:reach",
            ["data.source=x"],
            "no field data.source; this preset acts in an environment; tiny and size1m to",
        ),
        (
            TINY,
            ["encoder=3"],
            "config.encoder is a section; set one of its fields, attention, patch",
        ),
    ],
)
def test_config_flags(place, overrides, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError) as caught:
        command_line.load(place, [f"--config.{text}" for text in overrides])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_overrides_keep_types(monkeypatch):
    monkeypatch.chdir(ROOT)
    texts = ("optimizer.eps=1", "data.flip=false", "data.scale=(0.5,1)", "init_from=7")
    config = command_line.load(TINY, [f"--config.{text}" for text in texts])
    assert (config.optimizer.eps, config.data.flip) == (1.0, False)
    assert (config.data.scale, config.init_from) == ((0.5, 1.0), "7")
    assert type(config.optimizer.eps) is type(config.data.scale[1]) is float


def test_any_number_of_names_is_given(monkeypatch):
    monkeypatch.chdir(ROOT)
    texts = (
        "data.images=front,wrist",
        "data.states=arm",
        "data.states=('arm', 'hand')",
    )
    found = [
        command_line.load("configs/ac.py:arm", [f"--config.{text}"]).data
        for text in (*texts, "data.images=")
    ]
    assert [x.images for x in found] == [("front", "wrist"), ("",), ("",), ()]
    assert [x.states for x in found[1:3]] == [("arm",), ("arm", "hand")]


def test_a_config_file_that_cannot_be_loaded(tmp_path):
    def error_of(text):
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(ValueError) as caught:
            command_line.load(str(tmp_path / "own.py"))
        return str(caught.value)

    assert "own.py cannot be loaded: SyntaxError" in error_of("def get_config(:")
    assert "own.py cannot be loaded: ModuleNotFoundError" in error_of(
        "import nothing_here"
    )
    assert "own.py has no get_config" in error_of("x = 1")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": 0}, "steps is 0; use a whole number from 1 up"),
        ({"steps": -5}, "steps is -5; use a whole number from 1 up"),
        ({"batch": 0}, "batch is 0; use a whole number from 1 up"),
        ({"log_steps": 0}, "log_steps is 0; use a whole number from 1 up"),
        ({"save_steps": -1}, "save_steps is -1; use a whole number from 0 up"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0; use"),
        ({"max_bad_steps": 0}, "max_bad_steps is 0; use"),
        ({"seed": -1}, "seed is -1; use a whole number from 0 up"),
        ({"seed": 2**40}, "seed is 1099511627776"),
        (
            {"eval_steps__health": -2},
            "eval_steps.health is -2; use a whole number from -1",
        ),
        ({"mesh__data": 3}, "mesh {'replica': 1, 'data': 3"),
        (
            {"data__size": 65},
            "data.size 65 does not divide into patches of 16; use 64 or",
        ),
        (
            {"data__frames": 5},
            "data.frames 5 does not divide into patches of 2; use 4 or 6",
        ),
        ({"predictor__heads": 5}, "predictor.width 48 does not divide into 5 heads"),
        (
            {"predictor__heads": 6},
            "predictor heads are 8 wide; rotary positions need 12",
        ),
        (
            {"encoder__size": "tony"},
            "encoder size 'tony' is unknown; use one of ['mini', 'tiny'",
        ),
        (
            {"dtype": "float16"},
            "dtype is 'float16'; use 'auto', 'float32' or 'bfloat16'",
        ),
        ({"method": "jepa.trian"}, "method 'jepa.trian' is no module here"),
        ({"optimizer__lr__kind": "cosin"}, "schedule 'cosin' is unknown"),
        (
            {"data__source": "/nowhere"},
            "/nowhere does not exist; expected a folder with",
        ),
        (
            {"init_from": "/nowhere"},
            "/nowhere holds no checkpoint; name a run's folder or",
        ),
    ],
)
def test_fields(fields, words, tmp_path):
    assert words in error_of_fit(small(**fields), tmp_path / "run")
    assert not (
        tmp_path / "run" / "config.json"
    ).exists()  # so another config may follow


def test_more_masked_tokens_than_there_are(tmp_path):
    config = small()
    (first, *_) = config.masks.patterns.values()
    first.context = 17
    words = "context is 17 cells per time step but the 4x4 grid has 16; use 1 to 16"
    assert words in error_of_fit(config, tmp_path)


@pytest.mark.parametrize(
    ("section", "field", "words"),
    [
        ("encoder", "widht", "unknown field encoder.widht"),
        ("data", "sorce", "unknown field data.sorce"),
        ("objective", "vikreg", "unknown field objective.vikreg"),
        ("optimizer.lr", "peek", "unknown field optimizer.lr.peek"),
        ("masks.patterns.tubes", "block", "unknown field masks.patterns.tubes.block"),
        ("probe", "epochs", "unknown field probe.epochs"),
        ("physical", "clips", "unknown field physical.clips"),
        ("mesh", "model", "mesh axis 'model' is unknown; axes are"),
        (
            "eval_steps",
            "prob",
            "eval_steps names baselines, dense, health, physical, pictures, prob, probe, "
            "surprise;",
        ),
        ("predictor", "out", "config sets predictor.out, which its method sets itself"),
    ],
)
def test_fields_of_a_file(section, field, words, tmp_path):
    config = small()
    inner = functools.reduce(lambda c, name: c[name], section.split("."), config)
    inner[field] = 1
    assert words in error_of_fit(config, tmp_path)


def test_fields_that_a_file_lacks_or_mistypes(tmp_path):
    def changed(change):
        fields = small().to_dict()
        change(fields)
        return error_of_fit(ConfigDict(fields), tmp_path)

    assert "no field 'log_steps', which every run" in changed(
        lambda c: c.pop("log_steps")
    )
    assert "no field 'probe' where it is" in changed(lambda c: c.pop("probe"))
    assert "lacks the field 'bodies'" in changed(lambda c: c["data"].pop("bodies"))
    assert "batch is '32'; use a whole" in changed(lambda c: c.update(batch="32"))
    assert "steps is True; use a whole" in changed(lambda c: c.update(steps=True))
    assert "mesh is 8; expected a section" in changed(lambda c: c.update(mesh=8))
    assert "init_from is None; expected a string" in changed(
        lambda c: c.update(init_from=None)
    )


def test_other_errors_of_a_method_are_internal():
    config = small()
    config.optimizer.lr = ConfigDict({"kind": "constant", "value": "much"})
    with pytest.raises(TypeError):
        load_method(config)


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run", "/proc/none/run"):
        text = error_of_fit(small(), place)
        assert f"workdir {place} cannot be written: " in text
        assert "give another --workdir" in text


def test_folders_without_videos(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("")
    for name in ("empty", "note.txt"):
        text = error_of_fit(small(data__source=str(tmp_path / name)), tmp_path / "run")
        assert f"{name} has no videos; expected a folder with" in text


def test_corrupt_videos(tmp_path):
    (tmp_path / "videos").mkdir()
    for i in range(20):
        (tmp_path / "videos" / f"{i}.mp4").write_bytes(b"no video at all")
    text = error_of_fit(small(data__source=str(tmp_path / "videos")), tmp_path / "run")
    assert "none of the 8 records tried for sample" in text
    assert "repair or remove such records" in text


def test_another_config_in_the_same_folder(run):
    before = (run / "metrics.jsonl").read_bytes()
    text = error_of_fit(steady(steps=2, save_steps=1, seed=1, data__fps=5.0), run)
    assert "another config: data.fps was 4.0, is 5.0; seed was 0, is 1. Use" in text
    assert "--allow_config_change" in text
    assert (run / "metrics.jsonl").read_bytes() == before
    assert json.loads((run / "config.json").read_text())["seed"] == 0


def test_other_data_under_the_same_name(run):
    path = run / "provenance.json"
    known = json.loads(path.read_text())
    assert known["data"] == [{"place": ""}]  # the embedded world
    known["data"] = [{"place": "/videos", "files": 4, "bytes": 32, "digest": "0"}]
    path.write_text(json.dumps(known))
    config = steady(steps=2, save_steps=1)
    text = error_of_fit(config, run)
    assert "has changed: computed data: 4 files became none, 32 bytes became" in text
    assert "--allow_data_change to go on with the new data" in text
    train.fit(config, run, allow_data_change=True)


def test_a_folder_where_no_run_has_begun_takes_another_config(tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"no video at all")
    error_of_fit(small(data__source=str(tmp_path)), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 4
    train.fit(steady(steps=1, save_steps=1), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 1


def test_a_checkpoint_of_another_network(trained, run, tmp_path):
    other = steady(predictor__width=96)
    text = error_of_fit(other, run, allow_config_change=True)
    assert "checkpoints/2 is of another network: opt/mu/predictor/" in text
    assert "there and " in text and "more arrays differ" in text
    other.init_from = str(trained)
    assert "checkpoints/2 is of another network" in error_of_fit(
        other, tmp_path / "new"
    )


def largest(folder):
    return max(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def test_a_damaged_checkpoint(run, capfd):
    path = largest(run / "checkpoints" / "2")
    os.truncate(path, path.stat().st_size // 2)
    train.fit(steady(steps=3, save_steps=1), run, allow_config_change=True)
    out, err = capfd.readouterr()
    assert f"checkpoint {run}/checkpoints/2 is damaged (" in out and not err
    assert f"set aside in {run}/set_aside/2; going on from an earlier one" in out
    steps = [line["step"] for line in record(run)["metrics"]]
    assert steps == [1, 2, 3] and "resuming after step 1 in" in out


@pytest.fixture
def disk(monkeypatch):
    """{step: largest file in bytes}: the disk is full from the batch of that step on."""
    full, limits = {}, resource.getrlimit(resource.RLIMIT_FSIZE)

    def next_batch(self, *given, next_batch=Source.next):
        step = self.next_index // self.batch + 1
        if step in full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (full[step], limits[1]))
        return next_batch(self, *given)

    monkeypatch.setattr(Source, "next", next_batch)
    yield full
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_under_a_checkpoint(run, disk, capfd, monkeypatch):
    monkeypatch.setattr(checkpoint, "PAUSES", (0.0, 0.0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = steady(steps=6, save_steps=1, log_steps=6)
    disk[4] = 100_000
    text = error_of_fit(config, run, allow_config_change=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = r"checkpoints/\d cannot be written: file too large; step [23] is intact"
    assert re.search(found + "; fix that and start again", text)
    assert capfd.readouterr().out.count("; trying again in 0 s") == 2
    assert not capfd.readouterr().err
    disk.clear()
    assert int(train.fit(config, run).step) == 6
    assert not list((run / "checkpoints").glob("*tmp*"))


def test_a_full_disk_under_the_metrics(run, disk):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = steady(steps=6, save_steps=0)
    disk[4] = (run / "metrics.jsonl").stat().st_size + 20
    text = error_of_fit(config, run, allow_config_change=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "metrics.jsonl: file too large; make room there and start again" in text
    disk.clear()
    train.fit(config, run)
    assert [x["step"] for x in record(run)["metrics"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (("host:1", 2, None), "belong together"),
        (("host", 2, 0), "--coordinator is 'host'; use HOST:PORT"),
        (("host:1", 2, 2), "--process_id is 2; use 0 to 1 for 2 processes"),
    ],
)
def test_an_incomplete_job(job, words):
    with pytest.raises(ValueError, match=words):
        distributed.start(*job)


def run_train(*arguments):
    """`python -m launch.train` in a process."""
    command = [sys.executable, "-m", "launch.train", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def test_exit_codes_and_one_line_on_stderr(tmp_path):
    """The commands run at once, because start-up takes most of their time."""
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.py").write_text("def make(config):\n    return [][0]")
    (tmp_path / "own.py").write_text(
        "from configs.jepa import get_config as tiny\n"
        "def get_config():\n    c = tiny()\n    c.method = 'broken'\n    return c"
    )
    sane = [f"--config={TINY}", f"--workdir={tmp_path / 'run'}"]
    path = {"env": os.environ | {"PYTHONPATH": str(tmp_path)}}
    processes = {
        "both needed": run_train(),
        "--config.batch=3 needs --config": run_train("--config.batch=3"),
        "--config.batch has no value; write": run_train(*sane, "--config.batch", "3"),
        "no flag --workdr; did you mean workdir?": run_train(*sane, "--workdr=3"),
        "unexpected argument 'extra'; use --flag=value": run_train(*sane, "extra"),
        "Missing value for flag --workdir": run_train(sane[0], "--workdir"),
        "--allow_config_change=perhaps is not a valid": run_train(
            *sane, "--allow_config_change=perhaps"
        ),
        "did you mean data.source?": run_train(*sane, "--config.data.sorce=x"),
        "cannot be written: not a directory": start(small(), tmp_path / "file" / "run"),
    }
    for words, process in processes.items():
        out, err = process.communicate()
        assert (process.returncode, out) == (1, ""), (words, out, err)
        assert err.startswith("error: ") and err.count("\n") == 1 and words in err
    help = run_train("--help")
    internal = start(
        small(), tmp_path / "run", f"--config={tmp_path / 'own.py'}", **path
    )
    out, err = help.communicate()
    assert help.returncode == 0 and not err
    assert all(word in out for word in ("--config:", "--workdir:", "Train a config"))
    out, err = internal.communicate()
    assert internal.returncode == 2 and "IndexError: list index out of range" in err
