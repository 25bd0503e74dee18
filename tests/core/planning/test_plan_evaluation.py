"""The evaluation "plan": rows, intervals, ranks, open-loop errors, films, the table."""

import json

import numpy as np
import pytest
from points import STD, Points, Walks, exact_model

from core.evals.evaluate import report_findings
from core.planning import diagnose, evaluate, films
from core.planning.benches import make_plan_bench
from core.planning.scores import spearman, wilson

CEM = {"candidates": 128, "best": 12, "rounds": 10, "mean_first": True}
JUDGING = evaluate.Judging(
    tasks={"near": evaluate.Task(3, 12), "far": evaluate.Task(0, 16)},
    planners={"cem": CEM, "one_round": CEM | {"kind": "cem", "rounds": 1}},
    horizon=2,
    execute=2,
    problems=12,
    seeds=2,
    at_once=4,
)


def sample(rng):
    return tuple({"log/place": rng.uniform(1, 7, 2).astype("f")} for _ in range(2))


SETTING = evaluate.Setting(Points, Walks, sample)


@pytest.fixture(scope="module")
def found():
    run = evaluate.make_plan_eval(exact_model(), lambda state: state, SETTING, JUDGING)
    return run(np.float32(1))


def test_an_exact_model_reaches_its_goals_and_chance_does_not(found):
    assert found["near/cem/success"] == found["near/replay/success"] == 1
    assert found["far/cem/success"] > 0.9 > 0.5 > found["far/random/success"]
    assert "far/replay/success" not in found
    assert found["near/cem/problems"] == 24
    low, high = wilson(24, 24)
    assert (found["near/cem/success_low"], found["near/cem/success_high"]) == (
        low,
        high,
    )
    assert 0 < found["near/solved_at_start"] < 0.5 and "alarms" not in found


def test_cost_and_predictions_of_an_exact_model(found):
    assert found["cost_distance"] > 0.95
    assert all(found[f"open_loop/{h}"] < 1e-6 for h in (1, 2))
    assert found["shuffled"] > 100
    assert 0 < found["cem/ms_one"] and 0 < found["one_round/ms"]


def test_the_table_has_a_row_of_each(found):
    lines = found["table"].splitlines()
    assert "| near | replay | 100.0 | 86.2 to 100.0 |" in found["table"]
    assert sum(line.startswith(("| near", "| far")) for line in lines) == 7
    assert any("goals 3 steps ahead, budget 12 steps" in line for line in lines)


def test_pictures_show_each_film_beside_its_goal(found):
    sheet, film = found["plan_near_cem"], found["film_near_cem"]
    assert sheet.dtype == film.dtype == np.uint8 and sheet.ndim == 3 and film.ndim == 4
    side = 12 * 8 + 6
    assert sheet.shape[0] == 4 * side + 3 * 4
    assert film.shape[1] == 2 * side + 4
    goals = np.zeros((1, 12, 12, 3), np.uint8)
    shown = films.film_of(
        np.zeros((1, 3, 12, 12, 3), np.uint8), goals, np.array([2]), 9
    )
    assert [tuple(x[0, 0]) for x in shown] == [films.RED, films.RED, films.GREEN]


def test_a_model_without_finite_costs_raises_an_alarm():
    how = JUDGING._replace(
        tasks={"near": JUDGING.tasks["near"]}, planners={"cem": CEM}, seeds=1
    )
    run = evaluate.make_plan_eval(exact_model(), lambda state: state, SETTING, how)
    found = run(np.float32(np.nan))
    assert found["near/cem/success"] == 0
    assert (
        "cem found no plan of finite cost in 100.0% of the problems"
        in found["alarms"][0]
    )


def test_open_loop_errors_against_numpy():
    """A model that knows a tenth of each move has .81 of the error of copying."""
    model = exact_model(skip=2)
    roll = model.objective.roll

    def lazy(params, start, plans):
        place = start["place"][:, None, None]
        return place + 0.1 * (roll(params, start, plans) - place)

    windows, blocks = diagnose.read_windows(Walks(), model, horizon=4, count=9, seed=0)
    assert windows["place"].shape == (9, 5, 2) and blocks.shape == (9, 4, 4)
    errors = diagnose.open_loop(
        model._replace(roll=lazy), np.float32(1), windows, blocks
    )
    np.testing.assert_allclose(errors["predicted"] / errors["copied"], 0.81, rtol=1e-4)
    moved = windows["place"][:, 1:] - windows["place"][:, :1]
    np.testing.assert_allclose(errors["copied"], (moved**2).mean((0, 2)), rtol=1e-4)
    others = np.roll(moved, 1, 0)
    expected = ((0.1 * others - moved) ** 2).mean((0, 2))
    np.testing.assert_allclose(errors["shuffled"], expected, rtol=1e-3)
    with pytest.raises(ValueError, match="need 25 steps for 12 blocks of 2"):
        diagnose.read_windows(Walks(), model, horizon=12, count=2, seed=0)


def test_wilson_and_spearman_have_known_values():
    np.testing.assert_allclose(wilson(40, 50), (0.6696, 0.8876), atol=1e-4)
    np.testing.assert_allclose(wilson(0, 10), (0, 0.2775), atol=1e-4)
    assert spearman([1, 2, 3], [10, 400, 50]) == pytest.approx(0.5)
    assert spearman([1, 2, 3, 4], [-1, -2, -3, -9]) == pytest.approx(-1)
    x, y = [1, 2, 2, 3], [1, 3, 2, 4]  # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    assert spearman(x, y) == pytest.approx(
        np.corrcoef([1, 2.5, 2.5, 4], [1, 3, 2, 4])[0, 1]
    )
    assert np.isnan(spearman([1, 1], [1, 2]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"execute": 4}, "execute is 4 blocks; use 1 to 2"),
        ({"planners": {}}, "at least one task and one planner"),
        ({"tasks": {"a": evaluate.Task(5, 0)}}, "task 'a': budget is to be 1 or more"),
        ({"planners": {"x": {"kind": "nem"}}}, "no planner 'nem'"),
    ],
)
def test_judging_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        how = JUDGING._replace(**changes)
        evaluate.make_plan_eval(exact_model(), lambda s: s, SETTING, how)(np.float32(1))


def test_bounds_are_those_of_the_world_unless_left_out():
    model = exact_model(skip=1)
    space = evaluate.space_of(model, Points(), JUDGING)
    np.testing.assert_allclose(space.high * STD + [0.2, 0], [1, 1], rtol=1e-6)
    np.testing.assert_allclose(space.hold * STD + [0.2, 0], [0, 0], atol=1e-6)
    free = evaluate.space_of(model, Points(), JUDGING._replace(bounded=False))
    assert np.isinf(free.high).all() and (free.std == 1).all()


def test_the_benchmark_times_plans_together_and_alone():
    views = {"place": ((2,), "float32")}
    search = {"candidates": 8, "best": 2, "rounds": 2}
    bench = make_plan_bench(
        exact_model(), lambda: np.float32(1), views, horizon=2, problems=3, **search
    )
    found = bench()
    assert found["plan_problems"] == 3 and found["plan_one_seconds_median"] > 0
    assert found["plan_seconds_per_problem"] == found["plan_seconds_median"] / 3


def test_the_table_is_written_beside_the_numbers(tmp_path, capsys):
    finding = {"near/cem/success": 0.5, "table": "| a |\n|---|\n"}
    report_findings(tmp_path, 7, "plan", finding)
    assert (tmp_path / "7_plan_table.md").read_text() == "| a |\n|---|\n"
    known = json.loads((tmp_path / "7.json").read_text())["plan"]
    assert known["near/cem/success"] == 0.5
    assert known["table"] == str(tmp_path / "7_plan_table.md")
    assert "near/cem/success 0.500" in capsys.readouterr().out
