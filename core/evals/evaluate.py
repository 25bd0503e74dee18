"""Evaluates a checkpoint of a run; prints numbers and alarms, writes JSON and pictures."""

import math
import pathlib

import jax

from core.base import pictures
from core.base.files import read_json, write_json
from core.base.names import choose
from core.base.text import short
from core.method import Findings
from core.parallel.mesh import copy_to_local_mesh, make_mesh
from core.runs import restore
from core.runs.findings import LastingAlarm, split_findings


def evaluate_run(
    workdir, names=(), *, step: int | None = None, wait_s: float = 0
) -> dict:
    """Run the evaluations `names` of a method, all if empty; returns {name: findings}.

    Reads the checkpoint of `step`, by default the newest; waits for it up to `wait_s`
    seconds while a process trains in `workdir`. After each evaluation its
    pictures and DIR/evaluations/STEP.json are written; the JSON keeps what earlier calls
    found at this step. Raises ValueError for unknown names and missing runs or steps.
    """
    opened = restore.open_run(workdir, step, wait_s=wait_s)
    evals = choose(names, opened.method.evals, "evaluation")
    mesh = make_mesh(fsdp=-1)
    mesh, state = copy_to_local_mesh(mesh, restore.read_state(opened, mesh))
    found = {}
    with jax.set_mesh(mesh):
        for name, evaluate in evals.items():
            found[name] = evaluate(state)
            if jax.process_index() == 0:
                folder = opened.folder / "evaluations"
                report_findings(folder, opened.step, name, found[name])
    return found


def report_findings(folder: pathlib.Path, step: int, name: str, findings: Findings):
    """Write what one evaluation found to `folder`, and print it."""
    numbers, shown, sentences = split_findings(findings)
    folder.mkdir(exist_ok=True)
    files = {what: str(folder / f"{step}_{what}.png") for what in shown}
    for what, picture in shown.items():
        pathlib.Path(files[what]).write_bytes(pictures.encode_png(picture))
    # JSON has no NaN or infinity: float(value) reads these strings back.
    entry = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
    path = folder / f"{step}.json"
    known = read_json(path) if path.exists() else {}
    write_json(path, known | {"step": step, name: entry | files | sentences})
    words = [f"{what} {short(value)}" for what, value in numbers.items()]
    print("  ".join([f"step {step} {name}:", *words, *files.values()]), flush=True)
    for text in (text for texts in sentences.values() for text in texts):
        # One evaluation cannot say that something lasts.
        kind = "note" if isinstance(text, LastingAlarm) else "ALARM"
        print(f"step {step} {name}: {kind}: {text}", flush=True)
