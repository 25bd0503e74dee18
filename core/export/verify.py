"""Checks runs and exports at rest: every file that can be compared with its digest is."""

import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from core.base.digests import find_damage
from core.base.files import read_json
from core.base.text import one_line
from core.export import artifacts
from core.runs import checkpoint, integrity, lineage, mirror, run_folder

MADE_BY_HAND = "README.md"  # people edit a model card: a note, no damage


class Finding(NamedTuple):
    """One item of a run: its name, what is wrong with it ("" if nothing), what it holds."""

    item: str
    problem: str
    note: str = ""


def verify_run(folder: pathlib.Path) -> Iterator[Finding]:
    """Findings about config, records, checkpoints and exports in the folder of a run.

    Raises ValueError if there is no run.
    """
    if not (folder / run_folder.CONFIG).exists():
        run_folder.read_config(folder)  # raises
    for path in sorted([*folder.glob("*.json"), *folder.glob("evaluations/*.json")]):
        yield explained(path.relative_to(folder), verify_json, path)
    if (folder / run_folder.METRICS).exists():
        yield explained(run_folder.METRICS, verify_lines, folder)
    if (folder / lineage.LINEAGE).exists():
        yield explained(lineage.LINEAGE, verify_lineage, folder / lineage.LINEAGE)
    saved = mirror.within(folder, mirror.CHECKPOINTS)
    for step in checkpoint.steps_in(saved):
        found = explained(f"checkpoints/{step}", verify_checkpoint, saved / str(step))
        if (saved / str(step)).exists():  # a training removes its oldest
            yield found
    for path in sorted(saved.glob("*")):
        if path.is_dir() and not integrity.is_step(path.name):
            yield Finding(
                f"checkpoints/{path.name}", "", "ignored: not a finished step"
            )
    for path in exports_below(folder):
        yield explained(path.relative_to(folder), verify_export, path)


def verify_weights(folder: pathlib.Path) -> Iterator[Finding]:
    """A Finding about an export or a folder of others; one per export in a folder of them."""
    here = [folder] if any(folder.glob("*.safetensors")) else exports_below(folder)
    for path in here or [folder]:
        yield explained(path, verify_export, path)


def exports_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of exports below a folder; folders of runs have a provenance, too."""
    paths = {path.parent for path in folder.rglob(artifacts.PROVENANCE)} - {folder}
    return sorted(x for x in paths if not (x / run_folder.METRICS).exists())


def explained(item, check, path: pathlib.Path) -> Finding:
    """The Finding of check(path), which returns a note or raises ValueError: the problem."""
    try:
        return Finding(str(item), "", check(path))
    except ValueError as error:
        return Finding(str(item), one_line(error))


def verify_json(path: pathlib.Path) -> str:
    """Raises ValueError if the file is no JSON, or is the config of no run."""
    if path.name == run_folder.CONFIG:
        run_folder.read_config(path.parent)
    else:
        read_json(path)
    return "readable"


def verify_lines(folder: pathlib.Path) -> str:
    """The number of lines of metrics. Raises ValueError naming the first damaged one.

    A last line without its end is that of a killed run.
    """
    lines = (folder / run_folder.METRICS).read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"line {number} is damaged") from None
    return f"{len(lines) - 1} lines"


def verify_lineage(path: pathlib.Path) -> str:
    """The number of lines of a lineage. Raises ValueError naming the first damaged one."""
    lines = list(lineage.read(path))
    if damaged := [line for line in lines if isinstance(line, str)]:
        raise ValueError(damaged[0])
    return f"{len(lines)} lines"


def verify_checkpoint(folder: pathlib.Path) -> str:
    """Compare a checkpoint with its digests, and the step of its state with its name."""
    sums = integrity.expected_sums(folder)
    if found := find_damage(folder, sums):
        raise ValueError(found)
    if found := integrity.wrong_step(folder, checkpoint.step_of(folder)):
        raise ValueError(found)
    if not sums:
        return "not verified: it has no digests, as an older version wrote it"
    return f"{len(sums)} of {len(sums)} files are what was written"


def verify_export(folder: pathlib.Path) -> str:
    """Compare an export with its digests; folders of others are read through.

    Raises ValueError if a file differs or the folder holds no weights.
    """
    if (folder / artifacts.PROVENANCE).is_file():
        files = artifacts.recorded_files(folder)
        card = {MADE_BY_HAND: files.pop(MADE_BY_HAND, "")}
        if found := find_damage(folder, files):
            raise ValueError(found)
        edited = bool(find_damage(folder, card)) if card[MADE_BY_HAND] else False
        note = f"; {MADE_BY_HAND} was edited" * edited
        return f"{len(files)} of {len(files)} files are what was written{note}"
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ValueError(f"{folder} holds neither an export nor a *.safetensors file")
    return (
        f"not verified: no digests; {sum(map(count_tensors, paths))} tensors readable"
    )


def count_tensors(path: pathlib.Path) -> int:
    """How many tensors a safetensors file holds. Raises ValueError if it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return len([file.get_slice(name).get_shape() for name in file.keys()])
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read: {one_line(error)}") from None
