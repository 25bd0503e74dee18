"""The project table: bounds are written once, and every room is a package of it."""

import re
import tomllib

import pytest
from small import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = sorted(path.name for path in ROOT.glob("requirements*.txt"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def named(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def test_there_is_a_file_for_every_extra():
    assert FILES == sorted(
        ["requirements.txt", *(f"requirements-{extra}.txt" for extra in EXTRAS)]
    )


@pytest.mark.parametrize("file", FILES)
def test_requirements_files_only_point_to_the_project_table(file):
    lines = (ROOT / file).read_text().splitlines()
    (line,) = (line for line in lines if not line.startswith("#"))
    extra = file.removeprefix("requirements").removesuffix(".txt").removeprefix("-")
    assert line == (f"-e .[{extra}]" if extra else "-e .")


def test_a_bound_is_written_once():
    lists = [PROJECT["project"]["dependencies"], *EXTRAS.values()]
    bounded = [named(x) for one in lists for x in one if re.search(r"[<>=~]", x)]
    assert len(bounded) == len(set(bounded)) > 20


def test_every_room_is_installed():
    patterns = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {f"{room}*" for room in rooms} == set(patterns)
    for room in rooms:  # a folder without __init__.py would be left out
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_the_readme_has_the_two_commands():
    readme, script = ((ROOT / x).read_text() for x in ("README.md", ".ci/run"))
    new = "python3 -m venv .venv && . .venv/bin/activate && "
    run = "python -m launch.train --config=configs/jepa.py:tiny --workdir=runs/tiny"
    assert f"{new}pip install -r requirements.txt && {run}\n" in readme
    assert f"{new}pip install -r requirements-dev.txt && python -m pytest\n" in readme
    for step in ("ruff check .", "ruff format --check .", "pyright", "$tests"):
        assert f"\n{step}\n" in script


def test_the_license_is_there():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
