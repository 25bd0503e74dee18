"""Pages for people: their commands, names, links and the tutorial are true."""

import ast
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from small import QUICK, ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TUTORIAL = ROOT / "docs" / "adding_a_method.md"
ROOMS = ("core", "jepa", "dreamer", "launch", "configs", "tests", "docs", ".ci")
MARKED = re.compile(r"(?:<!-- (test|needs): ([^\n]+) -->\n)?```sh\n(.*?)```", re.S)
# The log of changes names what is no more.
TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]
# Fields and flags that prose names without a config.
PRESETS = (
    "configs/jepa.py:tiny",
    "configs/jepa.py:tiny_dense",
    "configs/jepa.py:tiny_levjepa",
    "configs/jepa.py:tiny_image",
    "configs/jepa.py:tiny_distill",
    "configs/dreamer.py:tiny",
    "configs/dreamer.py:reach",
    "configs/lewm.py:two_rooms",
    "configs/ac.py:two_rooms",
    "configs/pldm.py:two_rooms",
    "configs/compare.py:v2",
    "configs/dino_wm.py:two_rooms",
)
# Checks, with the flags of one command, the arguments of many uses of it.
CHECK = """
import importlib, json, sys
from absl import flags
from launch import cli, config
module = importlib.import_module(sys.argv[1])
wrong = {}
for text, argv in json.load(sys.stdin):
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    try:
        cli.parse([sys.argv[1], *argv])
        if "sweep" in flags.FLAGS and flags.FLAGS.sweep:
            from core.perf import sweep
            config.variants(flags.FLAGS.config, sweep.choices(flags.FLAGS.sweep))
    except ValueError as error:
        wrong[text] = str(error)
print(json.dumps({"wrong": wrong, "flags": list(flags.FLAGS)}))
"""


def label(page) -> str:
    return str(page.relative_to(ROOT))


def blocks(page) -> list[tuple[str, str, list[str]]]:
    """(kind of mark, its text, commands) of every block of shell commands."""
    found = MARKED.findall(page.read_text())
    return [(kind, text, body.splitlines()) for kind, text, body in found]


def commands(page) -> list[str]:
    """Single commands of all blocks."""
    lines = [line for *_, lines in blocks(page) for line in lines]
    return [one.strip() for line in lines for one in line.split(" && ")]


def inline(page) -> list[str]:
    """Code in running text and tables."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    return re.findall(r"`([^`]+)`", text)


def write_tutorial(folder) -> None:
    """The files that the tutorial builds up, block by block."""
    files = {}
    for name, body in re.findall(
        r'```python title="([^"]+)"\n(.*?)```', TUTORIAL.read_text(), re.S
    ):
        files.setdefault(name, []).append(body)
    for name, bodies in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n\n".join(bodies))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the configs, the method of the tutorial and its config."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_tutorial(folder)
    return folder


@pytest.fixture(scope="module")
def checked(place):
    """Every use of a command: {"launch.NAME": {"wrong": {use: error}, "flags"}}."""
    uses = {f"launch.{p.stem}": [] for p in (ROOT / "launch").glob("[a-z]*.py")}
    uses = {k: v for k, v in uses.items() if "cli.run(main)" in source_of(k)}
    for page in TODAY:
        for command in commands(page):
            if "-m launch." in command:
                words = shlex.split(command)
                at = words.index("-m") + 1
                use = (f"{label(page)}: {command}", words[at + 1 :])
                uses.setdefault(words[at], []).append(use)
    return {name: check(place, name, found) for name, found in uses.items()}


def source_of(module: str) -> str:
    return (ROOT / f"{module.replace('.', '/')}.py").read_text()


def check(folder, module: str, uses: list) -> dict:
    """Parse the arguments of each use, (text, arguments), without running anything."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, module],
        input=json.dumps(uses),
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, f"{module}: {done.stderr}"
    return json.loads(done.stdout)


def test_pages_are_found():
    names = {label(page) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/adding_a_method.md"} <= names
    assert sum(len(commands(page)) for page in TODAY) > 30


def test_launch_commands_parse(checked):
    """Modules, flags, config files, presets, fields and types of values exist."""
    wrong = {k: v for found in checked.values() for k, v in found["wrong"].items()}
    assert not wrong, json.dumps(wrong, indent=1)


def test_a_wrong_command_is_found(place):
    uses = [
        ("flag", ["--config=configs/jepa.py:tiny", "--wrkdir=x"]),
        ("preset", ["--config=configs/jepa.py:tinny"]),
        ("field", ["--config=configs/jepa.py:tiny", "--config.bath=3"]),
        ("right", ["--config=configs/jepa.py:tiny", "--config.batch=3"]),
    ]
    assert set(check(place, "launch.train", uses)["wrong"]) == {
        "flag",
        "preset",
        "field",
    }


@pytest.mark.parametrize("page", TODAY, ids=label)
def test_other_commands_name_what_exists(page):
    extras = (ROOT / "pyproject.toml").read_text()
    for command in commands(page):
        words = shlex.split(command)
        if "-m launch." in command:
            continue
        match words:
            case ["python3", "-m", "venv", _] | [".", _] | ["git", "clone", _]:
                pass
            case ["pip", "install", "-r", file]:
                assert (ROOT / file).is_file(), command
            case ["pip", "install", "-e", extra]:
                name = extra.removeprefix(".[").removesuffix("]")
                assert f"\n{name} = [" in extras, command
            case ["python", "-m", "pytest", *rest]:
                for word in rest:
                    path, _, name = word.partition("::")
                    if not path.startswith("-"):
                        assert f"def {name}" in (ROOT / path).read_text(), command
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).is_file(), command
            case ["ruff" | "pyright", *_]:
                pass
            case [script]:
                assert (ROOT / script).is_file(), command
            case _:
                pytest.fail(f"unknown command {command}")


@pytest.mark.parametrize("page", TODAY, ids=label)
def test_every_command_says_what_runs_it(page):
    """A block is run by a test, or it is marked with what it needs."""
    for kind, text, lines in blocks(page):
        assert kind, f"{label(page)}: no mark above {lines[0]}"
        if kind == "test":
            for one in text.split(", "):
                path, _, name = one.partition("::")
                assert f"def {name}" in (ROOT / path).read_text(), text


def test_flags_in_prose_exist(checked):
    """`--flag`, and `--config.field` of at least one preset."""
    flags = {name for found in checked.values() for name in found["flags"]}
    flags |= {"help", "fix"}
    fields = set()
    for preset in PRESETS:
        fields |= set(fields_of(preset))
    for page in TODAY:
        for code in inline(page):
            if code.startswith("pip "):
                continue
            for name in re.findall(r"(?:^|\s)--([\w.]+)", code):
                known = fields if name.startswith("config.") else flags
                name = name.removeprefix("config.")
                assert name in known, f"{label(page)}: {code}"


def fields_of(preset: str) -> list[str]:
    from launch import config

    return config.fields(config.load(f"{ROOT}/{preset}").to_dict())


@pytest.mark.parametrize("page", TODAY, ids=label)
def test_files_in_prose_exist(page):
    """Paths of this repository, and the presets and functions named behind a colon."""
    tutorial = {"configs/autoencoder.py", "tests/autoencoder/"}
    pattern = (
        rf"(?<![\w/.-])((?:{'|'.join(map(re.escape, ROOMS))})/[\w./]*)(:[\w.@:]+)?"
    )
    for path, name in re.findall(pattern, page.read_text()):
        path = path.rstrip(".")
        if path in tutorial:
            continue
        assert (ROOT / path).exists(), f"{label(page)}: {path}"
        if name and path.startswith("configs/"):
            fields_of(f"{path}{name.rstrip('.')}")
        elif name:
            defined = definitions(ROOT / path)
            assert name.strip(":.") in defined, f"{label(page)}: {path}{name}"


def definitions(path) -> set[str]:
    """Functions, classes and methods ("Class.method") of a file."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (x for x in node.body if isinstance(x, ast.FunctionDef))
            found |= {f"{node.name}.{x.name}" for x in inner}
    return found


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{label(page)}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{label(page)}: {target}"


def anchors(page) -> set[str]:
    """Headings as GitHub names them in links."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    for page in PAGES:
        if page.name != "README.md":
            assert f"]({label(page)})" in text, label(page)


def test_the_tutorial_is_in_style(place):
    for name in ("autoencoder.py", "configs/autoencoder.py"):
        for command in (["check"], ["format", "--diff"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"],
                input=(place / name).read_text(),
                capture_output=True,
                text=True,
                cwd=ROOT,
            )
            assert done.returncode == 0, done.stdout + done.stderr


def test_the_tutorial(place, monkeypatch):
    """Its commands in order: trains, goes on on more devices, evaluates, exports."""
    *_, steps = next(b for b in blocks(TUTORIAL) if b[1].endswith("the_tutorial"))
    train, more, evaluate, export = steps
    done = subprocess.run(
        [sys.executable, *shlex.split(train)[1:], "--config.steps=60"],
        capture_output=True,
        text=True,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK},
    )
    assert done.returncode == 0, done.stderr
    run = place / "runs" / "autoencoder"
    losses = [line["loss"] for line in metrics(run) if "loss" in line]
    assert len(losses) == 6 and losses[-1] < losses[0] / 2, losses

    # In this process, which is quicker, and has eight devices.
    from core.evals.evaluate import evaluate_run
    from core.export.export_run import export_run
    from core.train import fit
    from launch import config

    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    assert "--config.steps=220" in more and "--allow_config_change" in more
    changes = ["--config.steps=64", "--config.eval_steps.reconstruction=32"]
    longer = config.load("configs/autoencoder.py:tiny", changes)
    state = fit(longer, run, allow_config_change=True)
    assert int(state.step) == 64
    assert [p.name for p in run.glob("pictures/*")].count("00000064_reconstruction.png")
    losses = [line["loss"] for line in metrics(run) if "loss" in line]
    assert len(losses) == 7 and losses[-1] < losses[0] / 2, losses

    assert "--workdir=runs/autoencoder" in evaluate
    found = evaluate_run("runs/autoencoder")["reconstruction"]
    assert 0 < float(found["validation_loss"]) < losses[0]
    assert found["reconstruction"].dtype == "uint8"

    export_run("runs/autoencoder", "exports/autoencoder", ["safetensors"])
    assert "--out=exports/autoencoder --format=safetensors" in export
    folder = place / "exports" / "autoencoder" / "safetensors"
    names = {p.name for p in folder.iterdir()}
    assert names == {"README.md", "params.safetensors", "provenance.json"}


def metrics(run: pathlib.Path) -> list[dict]:
    """The lines of a run's metrics."""
    return [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
