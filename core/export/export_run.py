"""Exports a run or published weights: a folder per format, which appears only when whole."""

import pathlib
import tempfile
from collections.abc import Sequence

import jax

from core.base.files import read_json
from core.base.names import choose
from core.base.places import local_folder
from core.parallel.mesh import make_mesh
from core.runs import restore, run_folder


def export_run(
    workdir, out, formats: Sequence[str], *, step: int | None = None, wait_s: float = 0
):
    """`export` of a checkpoint that `core.runs.restore.open_run` opens."""
    out = local_folder(out, what="--out")
    export(restore.open_run(workdir, step, wait_s=wait_s), out, formats)


def export(opened: restore.Opened, out: pathlib.Path, formats: Sequence[str]):
    """Write OUT/FORMAT for every format.

    A folder appears only after its content was read back and agrees with the live model.
    Raises ValueError for unknown formats, existing folders and outputs that differ.
    """
    if not formats:
        raise ValueError(
            f"--format is needed; there are {', '.join(sorted(opened.method.exports))}"
        )
    writers = choose(formats, opened.method.exports, "format")
    for name in writers:
        if (out / name).exists():
            raise ValueError(f"{out / name} exists already; give another --out")
    state, report = opened.read(make_mesh(devices=jax.local_devices()[:1]))
    for line in report:
        print(line, flush=True)
    origin = origin_of(opened)
    for name, write in writers.items():
        gap = write_complete(out / name, write, state, origin)
        run = f"step {opened.step} of {opened.folder}"
        live = opened.checkpoint if opened.checkpoint.name != str(opened.step) else run
        print(
            f"{out / name}: read back, agrees with {live} within {gap:.1e}", flush=True
        )


def origin_of(opened: restore.Opened) -> dict:
    """Provenance of this export; under "run" that of the training."""
    origin = run_folder.provenance(str(opened.checkpoint))
    path = opened.folder / run_folder.PROVENANCE
    return origin | ({"run": read_json(path)} if path.exists() else {})


def write_complete(folder: pathlib.Path, write, state, origin: dict) -> float:
    """Call the Export `write` in a hidden folder and rename it to `folder` at the end."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as hidden:
            part = pathlib.Path(hidden) / folder.name
            part.mkdir()
            gap = write(state, part, origin)
            part.rename(folder)
            return gap
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written: {error.strerror or error}"
        ) from None
