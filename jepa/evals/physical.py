"""What the features of clips of the embedded world hold of its physics, beside baselines.

Positions, velocities and contacts; which body an occluder hides and where; where bodies
will land after the clip.
"""

import dataclasses
import functools

import numpy as np

from core.data.bodies import tasks
from core.data.bodies.stacked import stack_clips
from core.data.bodies.world import World
from core.evals import fit
from core.evals.classification import Options
from core.evals.encoders import encoders_of, features_in_memory
from core.evals.measures import cell, flat, measured
from core.evals.progress import progress_line, watched
from core.evals.regression import score_targets, work_of
from core.method import UNWATCHED, Frozen, Watch

ENCODERS = {"trained": "target", "untrained": "untrained", "pixels": "pixels"}
HEADS = ("ridge", "attentive1")
GRID = fit.Grid((1e-2, 3e-3, 1e-3), (0.01,), (0, 1, 2))
FUTURE_S = 2.0  # simulated beyond the clip
COPY = "copy_last"


def make_physical(
    frozen: Frozen,
    *,
    train: World,
    validation: World,
    train_clips: int = 800,
    held_clips: int = 400,
    steps: int = 200,
):
    """state -> R2, AUC or accuracy of every question of `core.data.bodies.tasks`.

    By name ENCODER/QUESTION/HEAD, and "copy_last/QUESTION" for the naive answers; `_low`
    and `_high` are the ends of the 95% interval over clips.

    Args:
      train, validation: worlds of clips that no encoder was trained on.
      train_clips, held_clips: to fit and to score heads on. steps: of attentive heads.
    """
    options = Options(steps=steps, head_batch=16, grid=GRID)
    worlds = (train, validation)
    count = (train_clips, held_clips)

    def evaluate(state, watch: Watch = UNWATCHED):
        found = {}
        for what, look, answer in (
            ("motion", with_future, tasks.motion_answers),
            ("occlusion", with_occluder, tasks.hidden_answers),
        ):
            clips = []
            for world, n in zip(worlds, count, strict=True):
                rows = watched(range(n), f"clips for {what}", watch)
                clips.append(stack_clips(look(world), rows))
            answers = [answer(part) for part in clips]
            videos = [part["video"] for part in clips]
            for question, truth in answers[1].true.items():
                copied = answers[1].copied[question][None]
                numbers = measured(tasks.MEASURED[question], copied, truth)
                found |= flat(f"{COPY}/{question}", tasks.MEASURED[question], numbers)
            for name, encode in encoders_of(frozen, ENCODERS, state):
                parts = [
                    features_in_memory(encode, video, watch, f"{name}: {what}")
                    for video in videos
                ]
                for head in HEADS:
                    scores = score_targets(
                        head,
                        *parts,
                        tuple(part.true for part in answers),
                        options=options,
                        measures=tasks.MEASURED,
                        progress=progress_line(
                            f"{name}: {what}: {head}", work_of(head, options), watch
                        ),
                    )
                    for question, numbers in scores.items():
                        key = f"{name}/{question}/{head}"
                        found |= flat(key, tasks.MEASURED[question], numbers)
        watch.say("\n" + table(found))
        return found

    return evaluate


def with_future(world: World) -> World:
    """The world, simulated FUTURE_S seconds beyond its clips."""
    return dataclasses.replace(world, future=int(np.ceil(FUTURE_S * world.fps)))


def with_occluder(world: World) -> World:
    """The world with a bar in front of its bodies."""
    overrides = dict(world.overrides or {}) | tasks.OCCLUDER
    return dataclasses.replace(world, overrides=overrides)


def table(found) -> str:
    """Markdown: a row per question and head, a column per encoder."""
    columns = [*ENCODERS, COPY]
    lines = [
        f"| question | measure | head | {' | '.join(columns)} |",
        "|---" * (len(columns) + 3) + "|",
    ]
    show = functools.partial(cell, found)
    for question, measure in tasks.MEASURED.items():
        for head in HEADS:
            cells = [show(f"{name}/{question}/{head}") for name in ENCODERS]
            cells.append(show(f"{COPY}/{question}"))
            lines.append(f"| {question} | {measure} | {head} | {' | '.join(cells)} |")
    return "\n".join(lines)
