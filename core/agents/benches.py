"""What an agent does besides updates, timed alone: environments' steps, replay's reads."""

import tempfile
import time

import numpy as np

from core.agents.collection import step_shapes
from core.agents.replay import Replay

SECONDS = 5.0
MEMORY = 2**30  # bytes of the replay that is read from


def rate(act, seconds=SECONDS) -> float:
    """Calls of `act` per second, after a first one that may prepare."""
    act()
    count, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        act()
        count += 1
    return count / (now - begin)


def make_benches(model, make_pool, *, streams, batch, length, seed):
    """name -> () -> numbers: "env" with actions of chance, "replay" from memory."""

    def env():
        pool = make_pool(seed=seed)
        rng = np.random.default_rng(seed)

        def act():
            actions = {"reset": np.zeros(streams, bool)}
            for name, space in model.actions:
                shape = (streams, *space.shape)
                if space.is_discrete:
                    actions[name] = rng.integers(0, space.classes, shape)
                else:
                    actions[name] = rng.uniform(-1, 1, shape).astype(np.float32)
            pool.send(actions)
            pool.receive()

        try:
            return {"env_steps_per_second": rate(act) * streams}
        finally:
            pool.close()

    def replay():
        shapes = step_shapes(model)
        each = sum(
            np.prod(s, dtype=int) * np.dtype(d).itemsize for s, d in shapes.values()
        )
        # More than any cache holds, as in a run.
        capacity = max(20 * (length + 1) * streams, MEMORY // int(each))
        with tempfile.TemporaryDirectory() as folder:
            size = {"streams": streams, "capacity": capacity, "length": length}
            kept = Replay(folder, shapes, **size)
            step = {k: np.ones((streams, *s), d) for k, (s, d) in shapes.items()}
            for _ in range(capacity // streams):
                kept.add(step)
            rng = np.random.default_rng(seed)
            reads = rate(lambda: kept.read(kept.draw(batch, rng)))
        return {
            "replay_sequences_per_second": reads * batch,
            "replay_bytes_per_step": float(each),
        }

    return {"env": env, "replay": replay}
