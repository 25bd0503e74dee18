"""Frozen artefacts of a run: each format in its own folder, whole or not at all."""

import pathlib
import tempfile
from collections.abc import Sequence

import jax

from core.base.names import choose
from core.parallel.mesh import make_mesh
from core.runs import restore, run_folder


def export_run(workdir, out, formats: Sequence[str], *, step: int | None = None):
    """Write OUT/FORMAT for every format, from a checkpoint of a run.

    A folder appears only once its content was read back and agrees with the live model.
    """
    opened = restore.open_run(workdir, step)
    if not formats:
        raise ValueError(
            f"--format is needed; there are {', '.join(sorted(opened.method.exports))}"
        )
    writers = choose(formats, opened.method.exports, "format")
    out = pathlib.Path(out).absolute()
    for name in writers:
        if (out / name).exists():
            raise ValueError(f"{out / name} exists already; give another --out")
    mesh = make_mesh(devices=jax.local_devices()[:1])
    state = restore.read_state(opened, mesh)
    origin = origin_of(opened)
    for name, write in writers.items():
        gap = write_whole(out / name, write, state, origin)
        print(
            f"{out / name}: read back, agrees with step {opened.step} of "
            f"{opened.folder} within {gap:.1e}",
            flush=True,
        )


def origin_of(opened: restore.Opened) -> dict:
    """Provenance of an artefact: of this export; under "run" that of the training."""
    origin = run_folder.provenance(str(opened.checkpoint))
    path = opened.folder / "provenance.json"
    return origin | ({"run": run_folder.read_config(path)} if path.exists() else {})


def write_whole(folder: pathlib.Path, write, state, origin: dict):
    """`write` into a hidden folder, which gets its name when nothing has failed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as place:
            half = pathlib.Path(place) / folder.name
            half.mkdir()
            gap = write(state, half, origin)
            half.rename(folder)
            return gap
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written: {error.strerror or error}"
        ) from None
