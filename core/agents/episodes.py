"""Episodes apart from those of training: what an agent's policy scores, and how it looks."""

import jax
import numpy as np

from core.agents.collection import make_policy, no_carry, nothing
from core.base.pictures import rgb

APART = 1 << 20  # added to the seed of training's environments
FRAMES = 64  # of a film at least, and less than twice as many, of a long episode


def make_episodes(model, choose, make_pool, *, seed, count, most_steps):
    """state -> mean and deviation of the scores of `count` episodes, and one as a film.

    An episode that is not over after `most_steps` counts with what it has got.
    """
    policy = make_policy(model, choose, seed=seed + APART)

    def evaluate(state):
        pool = make_pool(count=count, seed=seed + APART)
        try:
            scores, lengths, frames = play(
                pool, policy, model, state.params, most_steps
            )
        finally:
            pool.close()
        found = {
            "episodes/score": float(scores.mean()),
            "episodes/score_deviation": float(scores.std()),
            "episodes/steps": float(lengths.mean()),
        }
        if frames:
            found["episode"] = rgb(np.stack(frames))
        return found

    return evaluate


def play(pool, policy, model, params, most_steps):
    """(scores, lengths) of one episode in every environment, and frames of the first."""
    carry = jax.jit(lambda: no_carry(model, pool.count))()
    reset = np.ones(pool.count, bool)
    pool.send(nothing(model.actions, pool.count) | {"reset": reset})
    scores, lengths = np.zeros(pool.count), np.zeros(pool.count, int)
    over, frames, every = ~reset, [], 1
    names = [name for name, _ in model.spaces] + ["is_first"]
    for count in range(most_steps):
        step = pool.receive()
        scores += step["reward"] * ~over
        lengths += ~over
        if not over[0] and count % every == 0:
            frames += [x for x in [pool.picture()] if x is not None]
            if len(frames) == 2 * FRAMES:
                frames, every = frames[::2], 2 * every
        over |= step["is_last"]
        if over.all():
            break
        seen = {name: step[name] for name in names}
        carry, actions, _ = policy(params, carry, seen, np.int32(count))
        pool.send(jax.device_get(actions) | {"reset": np.zeros(pool.count, bool)})
    return scores, lengths, frames
