"""Benchmarks of acting: steps of environments, windows read from the replay."""

import tempfile
import time
from collections.abc import Callable

import numpy as np

from core.agents.envs.pool import Pool
from core.agents.policy import Shapes
from core.agents.replay import Replay, bytes_per_step
from core.agents.spaces import Spaces

SECONDS = 5.0  # that each rate is measured for
MEMORY = 2**30  # bytes of the replay that is read from


def calls_per_second(function: Callable[[], object]) -> float:
    """Rate of `function` over SECONDS, after a first call that may compile or allocate."""
    function()
    count, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) < begin + SECONDS:
        function()
        count += 1
    return count / (now - begin)


def make_benches(
    make_pool: Callable[..., Pool],
    *,
    actions: Spaces,
    shapes: Shapes,
    kept: Shapes,
    streams: int,
    batch: int,
    length: int,
    seed: int,
) -> dict[str, Callable[[], dict]]:
    """Name -> () -> numbers: "env" takes random actions, "replay" reads from memory.

    make_pool: seed= -> Pool of `streams` environments. shapes, kept, length: as in Replay.
    """

    def env():
        pool = make_pool(seed=seed)
        rng = np.random.default_rng(seed)

        def step():
            random = random_actions(actions, streams, rng)
            pool.send(random | {"reset": np.zeros(streams, bool)})
            pool.receive()

        try:
            return {"env_steps_per_second": calls_per_second(step) * streams}
        finally:
            pool.close()

    def replay():
        each = bytes_per_step({**shapes, **kept})
        # More than any cache holds, as in a run.
        capacity = max(20 * (length + 1) * streams, MEMORY // each)
        with tempfile.TemporaryDirectory() as folder:
            full = Replay(
                folder,
                shapes,
                kept=kept,
                streams=streams,
                capacity=capacity,
                length=length,
            )
            step = {k: np.ones(x[:, 0].shape, x.dtype) for k, x in full.steps.items()}
            for _ in range(capacity // streams):
                full.add(step)
            rng = np.random.default_rng(seed)
            reads = calls_per_second(lambda: full.read(full.draw_windows(batch, rng)))
        return {
            "replay_sequences_per_second": reads * batch,
            "replay_bytes_per_step": float(each),
        }

    return {"env": env, "replay": replay}


def random_actions(actions: Spaces, count: int, rng: np.random.Generator) -> dict:
    """Uniform actions by name [count, ...], reals in -1..1."""
    found = {}
    for name, space in actions:
        shape = (count, *space.shape)
        if space.is_discrete:
            found[name] = rng.integers(0, space.classes, shape)
        else:
            found[name] = rng.uniform(-1, 1, shape).astype(np.float32)
    return found
