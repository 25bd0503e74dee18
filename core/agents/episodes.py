"""Evaluation episodes: scores of a policy in environments apart from those of training."""

from collections.abc import Callable

import jax
import numpy as np

from core.agents.envs.pool import Pool
from core.agents.policy import Policy, jit_policy, observed, zero_actions
from core.agents.spaces import Spaces
from core.base.pictures import rgb
from core.base.waiting import Stopped, never
from core.method import Watch

SEED_OFFSET = 1 << 20  # added to the seed of training's environments
FRAMES = 64  # of a film at least, and less than twice as many, of a long episode


def make_episodes(
    policy: Policy,
    make_pool: Callable[..., Pool],
    *,
    spaces: Spaces,
    actions: Spaces,
    seed: int,
    count: int,
    most_steps: int,
) -> Callable:
    """An evaluation: state -> mean and deviation of `count` scores, and a film of one.

    make_pool: (count=, seed=) -> Pool. An episode that has not ended after `most_steps`
    steps counts with its score so far.
    """
    policy_step = jit_policy(policy, actions, seed=seed + SEED_OFFSET)

    def evaluate(state, watch: Watch) -> dict:
        def act(carry, step, i):
            observation = observed(spaces, step)
            carry, named, _ = policy_step(state.params, carry, observation, i)
            return carry, jax.device_get(named)

        pool = make_pool(count=count, seed=seed + SEED_OFFSET)
        try:
            carry = jax.jit(policy.first_carry, static_argnums=0)(count)
            first = zero_actions(actions, count)
            scores, lengths, frames = play(
                pool, act, carry, first, most_steps, watch.stopping
            )
        finally:
            pool.close()
        found = {
            "episodes/score": float(scores.mean()),
            "episodes/score_deviation": float(scores.std()),
            "episodes/steps": float(lengths.mean()),
        }
        return found | ({"episode": rgb(np.stack(frames))} if frames else {})

    return evaluate


def play(
    pool: Pool,
    act: Callable,
    carry,
    first: dict,
    most_steps: int,
    stopping: Callable[[], bool] = never,
):
    """Play one episode in every environment: scores [E], lengths [E], frames of the first.

    act: (carry, step, number) -> (carry, actions by name). first: actions of the reset. Raises
    Stopped if `stopping()`.
    """
    reset = np.ones(pool.count, bool)
    pool.send(first | {"reset": reset})
    scores, lengths = np.zeros(pool.count), np.zeros(pool.count, int)
    over, frames, every = ~reset, [], 1
    for i in range(most_steps):
        if stopping():
            raise Stopped
        step = pool.receive()
        scores += step["reward"] * ~over
        lengths += ~over
        if not over[0] and i % every == 0:
            frames += [x for x in [pool.picture()] if x is not None]
            if len(frames) == 2 * FRAMES:
                frames, every = frames[::2], 2 * every
        over |= step["is_last"]
        if over.all():
            break
        carry, actions = act(carry, step, np.int32(i))
        pool.send(actions | {"reset": ~reset})
    return scores, lengths, frames
