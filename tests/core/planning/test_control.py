"""Plans carried out: problems from episodes, replanning, the same plan in any company."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import MEAN, STD, Points, Walks, exact_model

from core.planning import control, evaluate
from core.planning.goals import block_bounds, check_views, to_actions, to_blocks
from core.planning.planners import make_planner
from core.planning.plans import make_space
from core.planning.problems import recorded_problems, sampled_problems

SEARCH = {"candidates": 64, "best": 8, "rounds": 4}


class Net:
    """A random network as dynamics: its programs round as those of real models."""

    def encode(self, params, context):
        return jnp.tanh(context["seen"] @ params["in"]), context["goal"]

    def cost(self, params, start, plans, key):
        z, goal = start
        z = jnp.broadcast_to(z[:, None], (*plans.shape[:2], z.shape[-1]))
        for t in range(plans.shape[2]):
            z += jnp.tanh(jnp.concatenate([z, plans[:, :, t]], -1) @ params["step"])
        return jnp.square(z - goal[:, None]).sum(-1)


def searches(name):
    """(planner of a random network, its weights, 11 problems as a Solver takes them)."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: 0.2 * rng.standard_normal(shape).astype("f")  # noqa: E731
    params = {"in": draw(50, 16), "step": draw(20, 16)}
    context = {"seen": draw(11, 50), "goal": draw(11, 16)}
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), 11)))
    space = make_space(-np.ones(4), np.ones(4))
    planner = make_planner(name, Net(), space, horizon=3, **SEARCH)
    return planner, params, (context, keys, control.to_numpy(planner.begin(11)))


@pytest.mark.parametrize("name", ["cem", "icem", "mppi"])
def test_a_plan_is_the_same_bits_however_many_are_solved(name):
    planner, params, given = searches(name)
    solver = control.Solver(planner, params, at_once=4)
    whole = solver(*given)
    for rows in ([3], [10, 2, 5], [9, 8, 7, 6, 5, 4]):
        some = jax.tree.map(lambda x, r=rows: x[r], given)
        for a, b in zip(whole, solver(*some), strict=True):
            np.testing.assert_array_equal(a[rows], b)


def test_each_core_of_a_cpu_solves_a_problem_of_its_own(monkeypatch):
    planner, params, given = searches("cem")
    together = control.Solver(planner, params, at_once=11)(*given)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(control, "usable_cpus", lambda: 3)
    solver = control.Solver(planner, params, at_once=4)
    assert (solver.at_once, solver.threads) == (1, 3)
    found = solver(*given)
    for a, b in zip(found, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for i in range(11):
        alone = solver(*jax.tree.map(lambda x, i=i: x[[i]], given))
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_array_equal(a[[i]], b)


def test_problems_are_of_one_episode_and_not_solved_yet():
    world, walks = Points(), Walks()
    problems = recorded_problems(walks, world, offset=5, count=50, seed=0)
    moved = problems.goals["log/place"] - problems.starts["log/place"]
    np.testing.assert_allclose(moved, problems.actions.sum(1), atol=1e-5)
    assert (np.linalg.norm(moved, axis=-1) >= 0.25).all()
    # Speeds by which 5 steps lead less than 0.25 away are solved at the start.
    speed = [np.linalg.norm(walks.load(i)["action"][0]) for i in range(6)]
    slow = np.mean(np.array(speed) * 5 < 0.25)
    assert abs(problems.solved - slow) < 0.15
    again = recorded_problems(walks, world, offset=5, count=50, seed=0)
    np.testing.assert_array_equal(
        problems.starts["log/place"], again.starts["log/place"]
    )


def test_only_wanted_problems_are_drawn():
    def sample(rng):
        return tuple({"log/place": rng.uniform(0, 8, 2)} for _ in range(2))

    def right(starts, goals):
        return goals["log/place"][:, 0] > starts["log/place"][:, 0]

    found = sampled_problems(sample, Points(), count=20, seed=1, wanted=right)
    assert (found.goals["log/place"][:, 0] > found.starts["log/place"][:, 0]).all()
    assert found.actions is None and len(found.take([1, 2])) == 2


@pytest.mark.parametrize(
    "walks, offset, message",
    [
        (Walks(steps=5), 5, "has 6 steps, which goals 5 steps ahead need"),
        (Walks(without=("action",)), 5, "walk . has no 'action', which plans"),
        (Walks(without=("log/place",)), 5, "walk . has no 'log/place'"),
        (Walks(), 0, "nearly all are solved at the start"),
    ],
)
def test_episodes_without_problems(walks, offset, message):
    with pytest.raises(ValueError, match=message):
        recorded_problems(walks, Points(), offset=offset, count=3, seed=0)


def test_blocks_are_normalized_actions_in_time():
    model, rng = exact_model(skip=2), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (3, 6, 2)).astype(np.float32)
    blocks = to_blocks(model, actions)
    assert blocks.shape == (3, 3, 4)
    np.testing.assert_allclose(
        blocks[:, 1, 2:], (actions[:, 3] - MEAN) / STD, atol=1e-6
    )
    np.testing.assert_allclose(to_actions(model, blocks), actions, atol=1e-6)
    low, high = block_bounds(model, Points())
    np.testing.assert_allclose(low, np.tile((-1 - MEAN) / STD, 2), atol=1e-6)
    np.testing.assert_allclose(high, np.tile((1 - MEAN) / STD, 2), atol=1e-6)
    with pytest.raises(ValueError, match="actions have 3 numbers; the model's have 2"):
        to_blocks(model, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="3 actions are no blocks of 2"):
        to_blocks(model, np.zeros((3, 2)))


def test_held_blocks_are_one_action_for_all_steps():
    model, rng = exact_model(skip=2)._replace(held=True), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (3, 6, 2)).astype(np.float32)
    blocks = to_blocks(model, actions)
    mean = (actions[:, 2:4].mean(1) - MEAN) / STD
    np.testing.assert_allclose(blocks[:, 1], mean, atol=1e-6)
    held = to_actions(model, blocks)
    np.testing.assert_allclose(held[:, ::2], held[:, 1::2])
    np.testing.assert_allclose(to_blocks(model, held), blocks, atol=1e-6)
    low, _ = block_bounds(model, Points())
    np.testing.assert_allclose(low, (-1 - MEAN) / STD, atol=1e-6)


def test_views_of_other_sizes_and_broken_sensors():
    seen, goal = np.zeros((2, 1, 8, 8, 3), np.uint8), np.zeros((2, 9, 8, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"'image' is \[8, 8, 3\], but in the goal \[9, 8"
    ):
        check_views({"image": seen}, {"image": goal})
    with pytest.raises(ValueError, match="observation 'arm' has a number that is not"):
        check_views({"arm": np.array([[[0.0, np.nan]]])}, {})


def test_a_policy_acts_only_on_what_is_not_solved():
    world = Points()
    problems = recorded_problems(Walks(), world, offset=8, count=5, seed=0)
    acted = []

    def policy(t, rows):
        acted.append(rows.tolist())
        step = problems.goals["log/place"][rows] - world.place[rows]
        return np.where(rows[:, None] < 3, np.clip(step, -1, 1), 0)

    done = control.carry_out(world, problems, policy, budget=4, film=True)
    assert done.success.tolist() == [True] * 3 + [False] * 2
    gap = np.abs(problems.goals["log/place"] - problems.starts["log/place"]).max(1)
    assert (done.steps[:3] <= np.ceil(gap[:3])).all() and (done.steps[3:] == 4).all()
    assert acted[-1] == [3, 4] and done.film.shape == (5, 5, 12, 12, 3)
    np.testing.assert_allclose(
        done.distance[3:],
        np.linalg.norm(problems.actions[3:].sum(1), axis=-1),
        rtol=1e-4,
    )


def test_planning_replans_from_what_it_sees():
    """A model that expects half of each move still arrives, since it looks again."""
    world, model = Points(), exact_model(skip=2)
    weak = model.objective.roll
    model.objective.roll = lambda p, s, plans: (
        s["place"][:, None, None] + 2 * (weak(p, s, plans) - s["place"][:, None, None])
    )
    problems = recorded_problems(Walks(), world, offset=12, count=6, seed=0)
    judging = evaluate.Judging({}, {})
    space = evaluate.space_of(model, world, judging)
    search = {"candidates": 128, "best": 16, "rounds": 10, "mean_first": True}
    planner = make_planner("cem", model.objective, space, horizon=1, **search)
    solver = control.Solver(planner, np.float32(1), at_once=4)
    policy = control.PlanningPolicy(
        world, problems, model, space, solver, execute=1, seed=0
    )
    done = control.carry_out(world, problems, policy, budget=20)
    assert done.success.all() and (done.steps > 2).any()
    assert not policy.lost.any()


def test_a_context_has_the_last_frames_and_the_actions_between_them():
    """At most `history` frames, each `skip` steps after the one before."""
    world, seen = Points(), []

    def context(observed, blocks, goal):
        seen.append((observed["place"], blocks))
        return {"place": observed["place"][:, -1], "goal": goal["place"]}

    model = exact_model(skip=2)._replace(context=context, history=3)
    problems = sampled_problems(far_apart, world, count=3, seed=0)
    space = evaluate.space_of(model, world, evaluate.Judging({}, {}))
    planner = make_planner("cem", model.objective, space, horizon=2, **SEARCH)
    solver = control.Solver(planner, np.float32(1), at_once=4)
    policy = control.PlanningPolicy(
        world, problems, model, space, solver, execute=1, seed=0
    )
    control.carry_out(world, problems, policy, budget=7)
    assert [x.shape[1] for x, _ in seen] == [1, 2, 3, 3]
    assert [blocks.shape[1] for _, blocks in seen] == [0, 1, 2, 2]
    for place, blocks in seen:
        moved = to_actions(model, blocks).reshape(3, -1, 2, 2).sum(2)
        np.testing.assert_allclose(np.diff(place, axis=1), moved, atol=1e-5)
    np.testing.assert_array_equal(seen[2][0][:, 1:], seen[3][0][:, :2])


def far_apart(rng):
    """A start at the left border and a goal at the right one, which no step is cut short by."""
    return tuple({"log/place": np.array([x, rng.uniform(3, 5)])} for x in (0.5, 7.5))


def test_where_every_cost_is_infinite_a_policy_holds_still():
    world, model = Points(), exact_model(skip=2)
    problems = recorded_problems(Walks(), world, offset=8, count=3, seed=0)
    space = evaluate.space_of(model, world, evaluate.Judging({}, {}))
    planner = make_planner("cem", model.objective, space, horizon=2, **SEARCH)
    solver = control.Solver(planner, np.float32(np.nan), at_once=4)
    policy = control.PlanningPolicy(
        world, problems, model, space, solver, execute=1, seed=0
    )
    control.carry_out(world, problems, policy, budget=4)
    assert policy.lost.all()
    np.testing.assert_allclose(world.place, problems.starts["log/place"], atol=1e-5)
