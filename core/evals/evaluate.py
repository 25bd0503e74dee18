"""Evaluations of a checkpoint after the fact: on the terminal, in JSON, as pictures."""

import math
import pathlib

import jax

from core.base import pictures
from core.base.files import write_json
from core.base.names import choose
from core.base.text import short
from core.parallel.mesh import copy_to_local_mesh, make_mesh
from core.runs import restore, run_folder
from core.runs.findings import split_findings


def evaluate_run(workdir, names=(), *, step: int | None = None) -> dict:
    """What the evaluations `names` find, all of the method if none: {name: findings}.

    DIR/evaluations/STEP.json is written after each, beside its pictures, and keeps what
    earlier calls found at this step.
    """
    opened = restore.open_run(workdir, step)
    evals = choose(names, opened.method.evals, "evaluation")
    mesh = make_mesh(fsdp=-1)
    mesh, state = copy_to_local_mesh(mesh, restore.read_state(opened, mesh))
    found = {}
    with jax.set_mesh(mesh):
        for name, evaluate in evals.items():
            found[name] = evaluate(state)
            if jax.process_index() == 0:
                tell(opened.folder / "evaluations", opened.step, name, found[name])
    return found


def tell(folder: pathlib.Path, step: int, name: str, findings: dict):
    """Write and print what one evaluation found."""
    numbers, shown, sentences = split_findings(findings)
    folder.mkdir(exist_ok=True)
    files = {what: str(folder / f"{step}_{what}.png") for what in shown}
    for what, picture in shown.items():
        pathlib.Path(files[what]).write_bytes(pictures.encode_png(picture))
    # JSON has no NaN or infinity: float(value) reads these strings back.
    entry = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
    path = folder / f"{step}.json"
    known = run_folder.read_config(path) if path.exists() else {}
    write_json(path, known | {"step": step, name: entry | files | sentences})
    words = [f"{what} {short(value)}" for what, value in numbers.items()]
    print("  ".join([f"step {step} {name}:", *words, *files.values()]), flush=True)
    for sentence in (s for told in sentences.values() for s in told):
        print(f"step {step} {name}: ALARM: {sentence}", flush=True)
