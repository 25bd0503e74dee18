"""Surprise of V-JEPA at clips of the embedded world that violate physics."""

import dataclasses

import numpy as np

from core.data.bodies import physics
from core.data.bodies.world import World
from core.evals.encoders import BATCH
from core.evals.progress import watched
from core.evals.surprise import TWINS, Surprise, findings, table
from core.method import UNWATCHED, Watch

KINDS = {
    "teleport": physics.TELEPORT,
    "vanish": physics.VANISH,
    "pass_body": physics.PASS_BODY,
    "pass_wall": physics.PASS_WALL,
    "rise": physics.RISE,
}


def make_twins(surprise: Surprise, *, world: World, pairs: int = 300):
    """state -> scores of `core.evals.surprise.findings` for every model of `surprise`.

    Twins are equal until a body teleports, vanishes, passes through another body or a wall,
    or falls upward. world: of clips that no model was trained on.
    """
    world = dataclasses.replace(
        world, variant="violation", breaches=tuple(KINDS.values())
    )

    def evaluate(state, watch: Watch = UNWATCHED):
        models = {name: make(state) for name, make in surprise.items()}
        errors = {name: [] for name in models}
        kind: list[int] = []
        for start in watched(range(0, TWINS * pairs, BATCH), "twins: clips", watch):
            rows = range(start, min(start + BATCH, TWINS * pairs))
            items = [world.load(row) for row in rows]
            kind += [int(item["violation"]) for item in items[1::TWINS]]
            short = BATCH - len(items)  # the last batch is filled up
            video = np.stack([item["video"] for item in items + items[:1] * short])
            for name, model in models.items():
                errors[name].append(model(video)[: len(items)])
        kinds = {name: np.equal(kind, number) for name, number in KINDS.items()}
        found = {}
        for name, parts in errors.items():
            twins = np.concatenate(parts)
            twins = twins.reshape(-1, TWINS, twins.shape[1])
            found |= findings(name, twins, kinds)
        watch.say("\n" + table(found, models, kinds))
        return found

    return evaluate
