"""The rooms and arrows of docs/architecture.md are those of the imports."""

import ast
import functools
import pathlib
import re

import pytest
from small import ROOT

SHARED = {"core", "launch", "configs", "tests"}
PACKAGES = {p.parent.name for p in ROOT.glob("*/__init__.py")}
METHODS = PACKAGES - SHARED
PAGE = ROOT / "docs" / "architecture.md"


@functools.cache
def drawing() -> dict[str, set[str]]:
    """room -> rooms that it may import, from bottom to top, as the page draws them."""
    (block,) = re.findall(r"```rooms\n(.*?)```", PAGE.read_text(), re.DOTALL)
    rows = (line.partition("->") for line in block.strip().splitlines())
    return {room.strip(): set(arrows.split()) for room, _, arrows in rows}


def files(room: str) -> list[pathlib.Path]:
    """The Python files of a room: one file, or all in a folder and below."""
    place = ROOT / room
    return [place] if place.suffix else sorted(place.rglob("*.py"))


def room_of(module: str) -> str | None:
    """The room that a module such as "core.nn.attention" lies in; None for a library."""
    package, _, rest = module.partition(".")
    if package not in PACKAGES:
        return None
    if package != "core" or not rest:
        return package
    name = rest.partition(".")[0]
    return f"core/{name}" if (ROOT / "core" / name).is_dir() else f"core/{name}.py"


def imported(path: pathlib.Path) -> set[str]:
    """All modules that a file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: imports are absolute"
            if node.module in PACKAGES:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


@functools.cache
def arrows(room: str) -> frozenset[str]:
    """The rooms that the files of a room import."""
    found = {room_of(name) for path in files(room) for name in imported(path)}
    return frozenset(found - {None, room, "core/__init__.py"})


def test_every_file_lies_in_a_room_of_the_drawing():
    drawn = {path for room in drawing() for path in files(room)}
    there = {p for name in PACKAGES - {"tests"} for p in (ROOT / name).rglob("*.py")}
    assert there - drawn == {ROOT / "core" / "__init__.py"}


@pytest.mark.parametrize("room", sorted(drawing()))
def test_imports_are_the_arrows_drawn(room):
    drawn = drawing()[room]
    if "core" in drawn:  # every room of core
        drawn = drawn - {"core"} | {r for r in drawing() if r.startswith("core/")}
        assert arrows(room) <= drawn
    else:
        assert arrows(room) == drawn


def test_no_arrow_runs_up():
    seen = set()
    for room, drawn in drawing().items():
        inside = {r for r in drawn if r.startswith("core/")}
        assert inside <= seen, f"{room} stands below {inside - seen}"
        seen.add(room)


def test_methods_know_core_alone_and_nobody_knows_a_method():
    for package in sorted(PACKAGES - {"tests"}):
        for path in (ROOT / package).rglob("*.py"):
            ours = {name.partition(".")[0] for name in imported(path)} & PACKAGES
            may = {
                "launch": {"launch", "core"},
                "configs": {"configs"},
                "core": {"core"},
            }
            allowed = may.get(package, {package, "core"})
            assert ours <= allowed, f"{path.relative_to(ROOT)}: {ours - allowed}"


def test_configs_import_only_ml_collections_and_each_other():
    for path in (ROOT / "configs").glob("*.py"):
        libraries = {x for x in imported(path) if room_of(x) != "configs"}
        assert libraries <= {"ml_collections"}, path


@pytest.mark.parametrize(
    "library, places",
    [("orbax", ["core/runs/checkpoint.py", "core/runs/orbax_s3.py"])],
)
def test_these_files_import_it(library, places):
    paths = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]
    users = [
        str(p.relative_to(ROOT))
        for p in paths
        if library in {name.partition(".")[0] for name in imported(p)}
    ]
    assert sorted(users) == places


def test_no_method_is_named_in_core():
    for path in (ROOT / "core").rglob("*.py"):
        words = set(path.read_text().lower().replace(".", " ").split())
        assert not words & METHODS, path


def test_every_room_says_what_it_knows():
    for path in ROOT.glob("core/*/"):
        if path.name != "__pycache__":
            first = (path / "__init__.py").read_text().splitlines()[0]
            assert first.startswith('"""') and len(first) > 20, path
