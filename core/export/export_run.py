"""Exports a run or published weights: a folder per format, which appears only when whole."""

import inspect
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.base.files import digest, read_json
from core.base.names import choose
from core.base.places import local_folder
from core.export import artifacts, gates
from core.parallel.mesh import make_mesh
from core.runs import lineage, mirror, restore, run_folder


class Conditions(NamedTuple):
    """Conditions of an export; without them it is not promoted.

    require: texts "EVAL.METRIC>=NUMBER". not_worse_than: the folder of a promoted export.
    """

    require: Sequence[str] = ()
    not_worse_than: str = ""


UNCONDITIONAL = Conditions()


def export_run(
    workdir,
    out,
    formats: Sequence[str],
    *,
    step: int | None = None,
    wait_s: float = 0,
    conditions: Conditions = UNCONDITIONAL,
    **options,
):
    """`export` of a checkpoint that `core.runs.restore.open_run` opens."""
    out = local_folder(out, what="--out")
    opened = restore.open_run(workdir, step, wait_s=wait_s)
    export(opened, out, formats, conditions=conditions, **options)


def export(
    opened: restore.Opened,
    out: pathlib.Path,
    formats: Sequence[str],
    *,
    conditions: Conditions = UNCONDITIONAL,
    **options,
):
    """Write OUT/FORMAT for every format, and a line each to the lineage.

    A folder appears only after its content was read back and agrees with the live model.

    Args:
      options: for all formats, among those that core.method.Export names. None is unset.

    Raises:
      ValueError: unknown formats, existing folders, options that a format does not have,
        conditions that are not met, values that are not finite, outputs that differ.
    """
    if not formats:
        raise ValueError(
            f"--format is needed; there are {', '.join(sorted(opened.method.exports))}"
        )
    writers = choose(formats, opened.method.exports, "format")
    options = {name: x for name, x in options.items() if x is not None}
    for name, write in writers.items():
        check_options(name, write, options)
        if (out / name).exists():
            raise ValueError(f"{out / name} exists already; give another --out")
    about = lineage.subject(opened.checkpoint, opened.step)
    found = gates.find_evaluations(opened, about)
    promoted = check_conditions(conditions, found, opened)
    state, report = opened.read(make_mesh(devices=jax.local_devices()[:1]))
    for line in report:
        print(line, flush=True)
    check_finite(opened, state)
    origin = origin_of(opened) | {
        "findings": lineage.storable(found.numbers()),
        "intervals": found.intervals(),
        "promoted": promoted,
    }
    for name, write in writers.items():
        exported = {"format": name, **options, **about}
        gap = write_complete(
            out / name, write, state, origin | {"exported": exported}, **options
        )
        lineage.append(
            opened.lineage,
            lineage.EXPORT,
            {**exported, **recorded(out / name), "promoted": promoted},
        )
        run = f"step {opened.step} of {mirror.shown(opened.folder)}"
        live = opened.checkpoint if opened.checkpoint.name != str(opened.step) else run
        print(
            f"{out / name}: read back, agrees with {live} within {gap:.1e}"
            + f"; promoted by {' and '.join(promoted)}" * bool(promoted),
            flush=True,
        )


def check_options(name: str, write, options: Mapping[str, Any]) -> None:
    """Raise ValueError for the first option that an Export has no keyword for."""
    known = inspect.signature(write).parameters
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"--{option}={value}: format {name!r} of this method has no such choice; "
                "leave it out"
            )


def check_conditions(
    conditions: Conditions, found: gates.Evaluated, opened: restore.Opened
) -> list[str]:
    """The conditions that are met, as text. Raises ValueError if one is not."""
    demanded = gates.parse_gates(conditions.require)
    promoted = [str(gate) for gate in demanded]
    lines = []
    if conditions.not_worse_than:
        before = local_folder(conditions.not_worse_than, what="--not_worse_than")
        promoted.append(f"not worse than {before}")
        gates.read_promoted(before)
    gates.check_gates(demanded, found, opened)
    if conditions.not_worse_than:
        lines = gates.check_not_worse(before, found, opened)
    for line in [*lines, *(found.damaged if promoted else [])]:
        print(line, flush=True)
    return promoted


def check_finite(opened: restore.Opened, state) -> None:
    """Raise ValueError for the first array of a state with a value that is not finite."""
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(x.dtype, jnp.floating) and not jnp.isfinite(x).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{opened.checkpoint}: {name} has values that are not finite; export an "
                "earlier step"
            )


def origin_of(opened: restore.Opened) -> dict:
    """Provenance of this export; under "run" that of the training, or of the weights."""
    origin = run_folder.provenance(str(opened.checkpoint))
    home = lineage.home_of(lineage.step_folder(opened.checkpoint))
    path = home / run_folder.PROVENANCE
    return origin | ({"run": read_json(path)} if path.is_file() else {})


def recorded(folder: pathlib.Path) -> dict[str, Any]:
    """What the lineage keeps of an artifact: its place and digests."""
    provenance = folder / artifacts.PROVENANCE
    files = artifacts.recorded_files(folder)
    return {"artifact": str(folder), "provenance": digest(provenance), "files": files}


def write_complete(
    folder: pathlib.Path, write, state, origin: dict, **options
) -> float:
    """Call the Export `write` in a hidden folder and rename it to `folder` at the end."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as hidden:
            part = pathlib.Path(hidden) / folder.name
            part.mkdir()
            gap = write(state, part, origin, **options)
            part.rename(folder)
            return gap
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written: {error.strerror or error}"
        ) from None
