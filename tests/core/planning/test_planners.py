"""All planners: optima in closed form, invariance, limits, colored noise, hopeless costs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import HIGH, LOW, SCALE, Hopeless, Quadratic, Regulator, goals, solve

from core.planning import mppi
from core.planning.categorical import Choices
from core.planning.noise import colored, coloring
from core.planning.objective import over_horizon
from core.planning.planners import make_planner
from core.planning.plans import Guess, Plan, make_space, shift

SAMPLING = {"candidates": 200, "best": 20, "rounds": 10}
SETTINGS = {
    "cem": SAMPLING | {"mean_first": True},
    "icem": SAMPLING | {"beta": 0.5},
    "mppi": {
        "candidates": 300,
        "best": 300,
        "rounds": 20,
        "temperature": 0.02,
        "std_min": 0.2,
        "std_max": 0.2,
    },
    "gradient": {"candidates": 4, "rounds": 60, "rate": 0.1},
}


@pytest.fixture(scope="module", params=SETTINGS)
def solved(request):
    """(planner, goals, keys, the Plan): the last problem's costs are all infinite."""
    goal = goals(5)
    goal[:, 0, 0] = np.abs(goal[:, 0, 0])
    goal[1, 1] = 9
    goal[4, 0, 0] = -1
    keys = jax.random.split(jax.random.key(1), 5)
    settings = SETTINGS[request.param]
    return (
        request.param,
        goal,
        keys,
        solve(request.param, Hopeless(), goal, keys, **settings),
    )


def test_the_best_plan_within_the_bounds_is_found(solved):
    _, goal, _, plan = solved
    best = np.clip(goal / SCALE, LOW, HIGH)[:4]
    np.testing.assert_allclose(plan.actions[:4], best, atol=0.1)
    cost = np.square(best * SCALE - goal[:4]).sum((1, 2))
    np.testing.assert_allclose(plan.cost[:4], cost, atol=0.03)


def test_without_a_finite_cost_a_plan_says_so_and_holds_still(solved):
    _, _, _, plan = solved
    assert plan.found.tolist() == [True] * 4 + [False]
    np.testing.assert_array_equal(plan.actions[4], np.zeros((3, 2)))
    assert plan.cost[4] == np.inf


def test_plans_do_not_depend_on_the_problems_beside_them(solved):
    """But for rounding; bit by bit in test_control.py, where the program is the same."""
    name, goal, keys, plan = solved
    some = [3, 0, 4]
    alone = solve(name, Hopeless(), goal[some], keys[np.array(some)], **SETTINGS[name])
    np.testing.assert_allclose(alone.actions, plan.actions[some], atol=1e-5)
    np.testing.assert_array_equal(alone.found, plan.found[some])


def test_linear_dynamics_have_the_optimum_of_riccati():
    """Without bounds, from two states; the planner with the fewest samples per round."""
    x = np.array([[1.0, 0.0], [-0.5, 0.5]], np.float32)
    problem, H = Regulator(), 6
    best = np.stack([problem.best(one, H) for one in x])
    keys = jax.random.split(jax.random.key(0), 2)
    for name, settings in {
        "cem": {"candidates": 200, "best": 20, "rounds": 25},
        "gradient": {"candidates": 2, "rounds": 300, "rate": 0.1},
        "mppi": {"candidates": 300, "best": 30, "rounds": 30, "temperature": 0.5},
    }.items():
        space = make_space([-np.inf], [np.inf], std=3)
        planner = make_planner(name, problem, space, horizon=H, **settings)
        plan = jax.jit(planner.plan)(0.0, {"x": x}, keys)
        np.testing.assert_allclose(plan.actions, best, atol=0.15, err_msg=name)
        least = problem.cost(0, x, jnp.asarray(best[:, None], jnp.float32), None)[:, 0]
        np.testing.assert_allclose(plan.cost, least, rtol=3e-3, err_msg=name)


def test_weights_of_mppi_against_numpy_and_their_limit():
    cost = np.array([[3.0, 1.0, 2.0, np.inf]])
    weight = np.exp(-cost / 0.7)
    found = mppi.softmin(jnp.asarray(cost), 0.7)
    np.testing.assert_allclose(found, weight / weight.sum(), rtol=1e-5)
    np.testing.assert_array_equal(
        mppi.softmin(jnp.asarray(cost), 1e-30), [[0, 1, 0, 0]]
    )
    assert not mppi.softmin(jnp.full((1, 2), jnp.inf), 0.7).any()


def test_mppi_at_temperature_0_returns_the_best_candidate_and_at_infinity_the_mean():
    goal, key, one = goals(3), jax.random.key(3), {"candidates": 50, "rounds": 1}
    best = solve("cem", Quadratic(), goal, key, best=1, **one)  # the same candidates
    cold = solve("mppi", Quadratic(), goal, key, best=50, temperature=1e-30, **one)
    np.testing.assert_array_equal(cold.actions, best.actions)
    mean = solve("cem", Quadratic(), goal, key, best=50, **one)
    hot = solve("mppi", Quadratic(), goal, key, best=50, temperature=1e9, **one)
    np.testing.assert_allclose(hot.actions, mean.actions, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_colored_noise_has_its_spectrum_and_unit_variance(beta):
    """The power of each frequency, averaged over 8192 draws, by numpy's FFT."""
    H = 16
    noise = np.asarray(colored(jax.random.key(0), (1, 4096, H, 2), beta=beta))
    np.testing.assert_allclose(noise.var((0, 1, 3)), 1, atol=0.06)
    power = (np.abs(np.fft.rfft(noise, axis=2)) ** 2).mean((0, 1, 3))
    f = np.fft.rfftfreq(H)[1:]
    expected = f**-beta
    np.testing.assert_allclose(
        power[1:] / power[1:].sum(), expected / expected.sum(), rtol=0.08
    )
    np.testing.assert_allclose(power[0] / power[1], 1, rtol=0.08)
    np.testing.assert_allclose(coloring(H, 0.0), np.eye(H), atol=1e-6)


def test_discrete_plans_are_the_best_of_all():
    """Against all 12^2 plans of two steps, each a class of 3 and one of 4."""
    table = np.random.default_rng(0).standard_normal((2, 7)).astype(np.float32)

    class Table:
        def encode(self, params, context):
            return context

        def cost(self, params, start, plans, key):
            return (plans * start[:, None]).sum((-2, -1))

    context = np.stack([table, -table])
    planner = make_planner(
        "categorical",
        Table(),
        Choices((3, 4)),
        horizon=2,
        candidates=64,
        best=8,
        rounds=5,
    )
    plan = jax.jit(planner.plan)(0, context, jax.random.split(jax.random.key(0), 2))
    one, two = np.eye(3), np.eye(4)
    steps = [np.concatenate([one[i], two[j]]) for i in range(3) for j in range(4)]
    for b in range(2):
        every = itertools.product(steps, steps)
        least = min((np.stack(x) * context[b]).sum() for x in every)
        assert set(np.unique(plan.actions[b])) == {0, 1}
        np.testing.assert_allclose(
            (plan.actions[b] * context[b]).sum(), least, rtol=1e-5
        )


def test_the_next_search_begins_with_the_tail():
    space = make_space(LOW, HIGH)
    actions = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    found = np.array([True, False])
    plan = Plan(actions, np.zeros(2), found, actions[:, None])
    guess = shift(plan, 2, space)
    np.testing.assert_array_equal(guess.actions[0], [[4, 5], [0, 0.5], [0, 0.5]])
    np.testing.assert_array_equal(guess.actions[1], [[0, 0.5]] * 3)
    np.testing.assert_array_equal(guess.kept[0, 0], guess.actions[0])


def test_a_good_guess_is_a_better_beginning():
    goal = goals(2)
    few = {"candidates": 12, "best": 5, "rounds": 1, "key": jax.random.key(0)}
    plain = solve("icem", Quadratic(), goal, **few)
    guess = Guess(jnp.asarray(goal / SCALE), jnp.asarray(plain.kept))
    warm = solve("icem", Quadratic(), goal, guess=guess, **few)
    np.testing.assert_allclose(warm.cost, 0, atol=1e-6)  # the mean is a candidate
    assert (plain.cost > 0.01).all()
    kept = Guess(
        jnp.zeros((2, 3, 2)), jnp.broadcast_to(goal[:, None] / SCALE, (2, 5, 3, 2))
    )
    warm = solve("icem", Quadratic(), goal, guess=kept, **few)
    np.testing.assert_allclose(warm.cost, 0, atol=1e-6)


def test_the_cost_of_a_plan_is_of_its_last_step_or_all():
    costs = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(over_horizon(costs, last=1), [2, 5])
    np.testing.assert_array_equal(over_horizon(costs, last=2), [3, 9])
    np.testing.assert_array_equal(over_horizon(costs, last=0), [3, 12])
    with pytest.raises(
        ValueError, match="cost.last is 4; use 0 for all steps, or 1 to 3"
    ):
        over_horizon(costs, last=4)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (("bounds", [0, 2], [1, 1]), "number 1 of an action is to be at least 2"),
        (("bounds", [0.0], [np.nan]), "bounds exclude every action"),
        (("bounds", [0, 0], [1]), "2 lower and 1 upper"),
        (("icem", {"keep": 21}), "planner.keep is 21; use 0 to 20"),
        (("mppi", {"temperature": 0.0}), "planner.temperature is 0"),
        (("mppi", {"std_min": 3.0}), "planner.std_min is 3"),
        (("cem", {"rounds": 0}), "planner.rounds is 0"),
        (("gradient", {"rate": 0.0}), "planner.rate is 0"),
        (("sem", {}), "no planner 'sem' .did you mean 'cem'"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        if wrong[0] == "bounds":
            make_space(*wrong[1:])
        name, changes = wrong
        settings = SETTINGS.get(name, SAMPLING) | changes
        make_planner(name, Quadratic(), make_space(LOW, HIGH), horizon=3, **settings)
