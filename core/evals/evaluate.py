"""Evaluates a checkpoint or published weights: prints numbers, writes JSON and pictures."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from core.base import pictures
from core.base.files import read_json, write_json, write_text
from core.base.names import choose
from core.base.text import short
from core.method import Findings, Watch
from core.parallel.mesh import copy_to_local_mesh, make_mesh
from core.runs import lineage, restore, run_folder
from core.runs.findings import LastingAlarm, split_findings, texts_of
from core.runs.working import say


def evaluate_run(
    workdir, names=(), *, step: int | None = None, wait_s: float = 0
) -> dict:
    """`evaluate` on a checkpoint that `core.runs.restore.open_run` opens."""
    return evaluate(restore.open_run(workdir, step, wait_s=wait_s), names)


def evaluate(opened: restore.Opened, names=()) -> dict:
    """Run the evaluations `names` of a method, all if empty; returns {name: findings}.

    After each evaluation its pictures and FOLDER/evaluations/STEP.json are written; the
    JSON keeps what earlier calls found at this step. Raises ValueError for unknown names
    and missing runs or steps.
    """
    evals = choose(names, opened.method.evals, "evaluation")
    found = {}
    with open_state(opened) as state:
        for name, evaluation in evals.items():
            found[name] = evaluation(state, Watch(say=say_of(name)))
            if jax.process_index() == 0:
                folder = opened.folder / "evaluations"
                weights = "" if opened.step else str(opened.checkpoint)
                report_findings(folder, opened.step, name, found[name], weights)
                record(opened, name, split_findings(found[name])[0])
    return found


def say_of(name: str) -> Callable[[str], None]:
    """A function that prints what an evaluation says of its progress."""
    return lambda text: say(f"{name}: {text}")


def record(opened: restore.Opened, name: str, findings) -> None:
    """Append the numbers of an evaluation, nested by name, to the lineage."""
    about = lineage.subject(opened.checkpoint, opened.step)
    lineage.record_evaluation(opened.lineage, about, name, findings)


def check_results_folder(opened: restore.Opened) -> None:
    """Raise ValueError if the folder of results holds a model, or results of other weights."""
    folder = opened.folder
    if folder in opened.checkpoint.parents and opened.step:  # the run's own
        return
    if (folder / run_folder.CONFIG).exists():
        raise ValueError(
            f"--out {folder} holds a {run_folder.CONFIG}, so it is that of another run or "
            "model; give a folder of its own"
        )
    # Of a run, results of several steps may stand beside each other.
    place = opened.checkpoint.parent if opened.step else opened.checkpoint
    for path in sorted((folder / "evaluations").glob("*.json")):
        known = read_json(path)
        of = known.get("about", known).get("checkpoint", str(place))
        if not pathlib.Path(of).is_relative_to(place):
            raise ValueError(
                f"--out {folder} holds results of {of}; give a folder of its own"
            )


@contextlib.contextmanager
def open_state(opened: restore.Opened) -> Iterator[Any]:
    """The state, on a mesh of this process's devices that is set meanwhile."""
    mesh = make_mesh(fsdp=-1)
    state, report = opened.read(mesh)
    for line in report:
        print(line, flush=True)
    mesh, state = copy_to_local_mesh(mesh, state)
    with jax.set_mesh(mesh):
        yield state


def report_findings(
    folder: pathlib.Path, step: int, name: str, findings: Findings, weights: str = ""
):
    """Write what one evaluation found to `folder`, and print it.

    weights: path of published weights, recorded beside it.
    """
    numbers, shown, sentences = split_findings(findings)
    folder.mkdir(parents=True, exist_ok=True)
    files = {what: str(folder / f"{step}_{what}.png") for what in shown}
    for what, picture in shown.items():
        pathlib.Path(files[what]).write_bytes(pictures.encode_png(picture))
    for what, text in texts_of(findings).items():
        path = folder / f"{step}_{name}_{what}.md"
        write_text(path, text)
        files[what] = str(path)
        print(text, flush=True)
    # JSON has no NaN or infinity: float(value) reads these strings back.
    entry = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
    path = folder / f"{step}.json"
    known = read_json(path) if path.exists() else {}
    known |= {"checkpoint": weights} if weights else {}
    write_json(path, known | {"step": step, name: entry | files | sentences})
    words = [f"{what} {short(value)}" for what, value in numbers.items()]
    print("  ".join([f"step {step} {name}:", *words, *files.values()]), flush=True)
    for text in (text for texts in sentences.values() for text in texts):
        # One evaluation cannot say that something lasts.
        kind = "note" if isinstance(text, LastingAlarm) else "ALARM"
        print(f"step {step} {name}: {kind}: {text}", flush=True)
