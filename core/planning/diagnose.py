"""What a model knows that planning needs: does its cost rank plans as the world does, how
fast do its predictions go wrong, do they depend on the actions?
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.data.episodes.steps import is_observation
from core.planning.control import goal_views
from core.planning.goals import GoalModel, GoalWorld, to_actions, to_blocks
from core.planning.noise import coloring
from core.planning.plans import PlanSpace
from core.planning.problems import Problems, load_recording, stack
from core.planning.scores import spearman


def cost_distance(
    world: GoalWorld,
    problems: Problems,
    model: GoalModel,
    params: Any,
    space: PlanSpace,
    *,
    horizon: int,
    plans: int,
    seed: int,
) -> np.ndarray:
    """Rank correlation of a plan's cost and the distance to the goal after it, [P].

    Each problem has as many random `plans`, of noise that changes slowly, within the
    bounds. 1 if the cost ranks them as the world does; NaN where all end alike.
    """
    P, width = len(problems), len(space.mean)
    white = np.random.default_rng(seed).standard_normal((P, plans, horizon, width))
    noise = np.einsum("gh,bsha->bsga", coloring(horizon, 2.0), white)
    chosen = np.asarray(space.clip(space.mean + space.std * noise), np.float32)
    goal = goal_views(world, problems)
    seen = {name: x[:, None] for name, x in world.observe().items()}
    context = model.context(seen, np.zeros((P, 0, width), np.float32), goal)

    @jax.jit
    def costs(params, context, chosen, key):
        start = model.objective.encode(params, context)
        return model.objective.cost(params, start, chosen, key)

    cost = np.asarray(costs(params, context, chosen, jax.random.key(seed)))
    many = problems.take(np.repeat(np.arange(P), plans))
    world.reset(many.starts)
    actions = to_actions(model, chosen.reshape(P * plans, horizon, width))
    for t in range(actions.shape[1]):
        world.step(np.clip(actions[:, t], world.low, world.high))
    distance = world.distance(many.goals).reshape(P, plans)
    return np.array([spearman(a, b) for a, b in zip(cost, distance, strict=True)])


def read_windows(
    recordings: Any, model: GoalModel, *, horizon: int, count: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Windows of episodes at random: frames [n, horizon + 1, ...] by name, `model.skip`
    steps apart, and the blocks between [n, horizon, width].

    Raises ValueError if no episode is long enough.
    """
    rng, length, found = np.random.default_rng(seed), horizon * model.skip, []
    for _ in range(20 * count):
        steps = load_recording(recordings, int(rng.integers(len(recordings))))
        first = np.asarray(steps["is_first"], bool)
        starts = [
            t
            for t in range(len(first) - length)
            if not first[t + 1 : t + length + 1].any()
        ]
        if starts:
            t = int(rng.choice(starts))
            frames = {
                name: np.asarray(x[t : t + length + 1])[:: model.skip]
                for name, x in steps.items()
                if is_observation(name)
            }
            action = np.asarray(steps["action"][t : t + length], np.float32)
            found.append(frames | {"action": action})
        if len(found) == count:
            windows = stack(found)
            return windows, to_blocks(model, windows.pop("action"))
    raise ValueError(
        f"{len(found)} of {count} windows were found: episodes of {recordings} need "
        f"{length + 1} steps for {horizon} blocks of {model.skip}"
    )


def open_loop(model: GoalModel, params: Any, frames, blocks, *, part: int = 64) -> dict:
    """Errors of predictions from one frame, over n windows of `read_windows`.

    Returns mean squared errors by block [H]: "predicted", "copied" (the latent of the first
    frame in place of a prediction) and "shuffled" (predicted by another window's blocks).
    """
    context = model.context(
        {name: x[:, :1] for name, x in frames.items()},
        np.zeros((len(blocks), 0, blocks.shape[-1]), np.float32),
        {name: x[:, -1] for name, x in frames.items()},
    )

    @jax.jit
    def errors(params, context, frames, blocks, others):
        true = model.encode(params, frames)
        start = model.objective.encode(params, context)
        plans = jnp.stack([blocks, others], 1)
        predicted = model.roll(params, start, plans)
        gap = {
            "predicted": predicted[:, 0] - true[:, 1:],
            "copied": true[:, :1] - true[:, 1:],
            "shuffled": predicted[:, 1] - true[:, 1:],
        }
        return {
            k: jnp.square(x).reshape(*x.shape[:2], -1).mean(-1) for k, x in gap.items()
        }

    others = np.roll(blocks, 1, 0)
    found = []
    for i in range(0, len(blocks), part):
        rows = slice(i, i + part)
        given = jax.tree.map(lambda x, r=rows: x[r], (context, frames, blocks, others))
        found.append(jax.tree.map(np.asarray, errors(params, *given)))
    return {name: np.concatenate([x[name] for x in found]).mean(0) for name in found[0]}
