"""Who may know whom, as drawn in the map of the rooms."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SHARED = {"core", "launch", "configs", "tests"}
ROOMS = {p.parent.name for p in ROOT.glob("*/__init__.py")}
METHODS = ROOMS - SHARED
MAY = {
    "core": {"core"},
    "launch": {"launch", "core"},  # methods by name alone
    "configs": set(),
    **{method: {method, "core"} for method in METHODS},
}


def imported(path) -> set[str]:
    """The first names of all modules that a file imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names.add(node.module.split(".")[0])
    return names


def test_there_are_rooms():
    assert {"core", "launch", "configs", "jepa"} <= ROOMS


@pytest.mark.parametrize("room", sorted(MAY))
def test_imports_go_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        ours = imported(path) & (ROOMS | {"tests"})
        assert ours <= MAY[room], f"{path.relative_to(ROOT)} imports {ours - MAY[room]}"


def test_configs_import_only_ml_collections():
    for path in (ROOT / "configs").glob("*.py"):
        assert imported(path) <= {"ml_collections"}, path


def test_only_one_file_imports_orbax():
    paths = [p for room in MAY for p in (ROOT / room).rglob("*.py")]
    assert [p.name for p in paths if "orbax" in imported(p)] == ["checkpoint.py"]


def test_no_method_is_named_in_core():
    for path in (ROOT / "core").rglob("*.py"):
        words = set(path.read_text().lower().replace(".", " ").split())
        assert not words & METHODS, path
