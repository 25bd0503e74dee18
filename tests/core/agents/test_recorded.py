"""Recordings that fill a replay: their steps, and actions in the agent's units."""

import numpy as np
import pytest
import robots
from test_replay import KEPT, LENGTH, SHAPES

from core.agents import recorded
from core.agents.recorded_actions import is_one_hot, parts_of, spaces_of, to_agent
from core.agents.replay import Replay
from core.agents.spaces import Space, sorted_spaces, total_width
from core.data import source_names
from core.data.records import BadSample

PUSH = sorted_spaces({"push": Space((2,))})
KEY = sorted_spaces({"key": Space((), "int32", 3)})
BOTH = sorted_spaces({"key": Space((), "int32", 3), "push": Space((2,))})
LAST = np.array([False, False, True])
FAR = {"low": [-2, 0], "high": [2, 10]}


def test_reals_come_to_the_units_of_the_agent():
    x = np.array([[2, 0], [-1, 7.5], [0, 0]])
    found = to_agent(x, LAST, parts=[FAR], actions=PUSH)
    np.testing.assert_allclose(found, [[1, -1], [-0.5, 0.5], [0, 0]], atol=1e-6)
    # What an agent chose is kept as it was, also beyond -1..1.
    found = to_agent(x, LAST, parts=parts_of(PUSH), actions=PUSH)
    np.testing.assert_allclose(found, x * ~LAST[:, None])
    # Bounds that are none count as not known.
    far = {"low": [None, -3.4e38], "high": [None, 1]}
    np.testing.assert_allclose(
        to_agent(x / 10, LAST, parts=[far], actions=PUSH), x / 10
    )


@pytest.mark.parametrize(
    "parts, x, message",
    [
        ([FAR], [[2.1, 5]], "is 2.1, beyond its bounds, -2 to 2"),
        ([FAR], [[0, -1]], "is -1, beyond its bounds, 0 to 10"),
        (
            None,
            [[0, 37]],
            "is 37, beyond its bounds, -1 to 1; .*replay.action_bounds=LOW",
        ),
        (
            [{"low": [None] * 2, "high": [None] * 2}],
            [[9, 0]],
            "is 9, beyond its bounds, -1 to 1; ",
        ),
        (
            [{"classes": 2}],
            [[0, 1]],
            "are a choice of 2, but .* environment are 2 reals",
        ),
        (
            parts_of(BOTH),
            [[0, 0, 1, 0, 0]],
            "are a choice of 3, 2 reals, but .* are 2 reals",
        ),
    ],
)
def test_actions_of_another_kind_or_beyond_bounds_are_refused(parts, x, message):
    with pytest.raises(ValueError, match=message):
        to_agent(x, [False], parts=parts, actions=PUSH)


def test_choices_stay_choices():
    hot = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    numbers = np.array([[1], [0], [2]])
    for parts, x in (([{"classes": 3}], hot), (None, hot), (None, numbers)):
        found = to_agent(x, LAST, parts=parts, actions=KEY)
        np.testing.assert_array_equal(found, hot)
    for x, message in (
        (hot * 0.5, "not always a choice of 3"),
        (hot * 0, "not always a choice of 3"),
        (numbers + 0.5, "not always an integer"),
        (numbers + 2, "not always an integer in 0 to 2"),
        (hot[:, :2], "has 2 numbers, not 3"),
    ):
        with pytest.raises(BadSample, match=message):
            to_agent(x, LAST, parts=None, actions=KEY)
    both = np.concatenate([hot, [[0.5, 1], [-1, 9], [3, 3]]], -1)
    found = to_agent(both, LAST, parts=parts_of(BOTH), actions=BOTH)
    np.testing.assert_array_equal(found, both * ~LAST[:, None])


def test_spaces_of_recorded_actions():
    for parts, expected in (
        (parts_of(KEY), {"action": Space((), "int32", 3)}),
        ([FAR], {"action": Space((2,))}),
        (parts_of(PUSH), {"action": Space((2,))}),
    ):
        assert spaces_of(parts) == expected
    found = sorted_spaces(spaces_of([FAR, *parts_of(BOTH)]))
    kinds = [space.classes for _, space in found]
    assert kinds == [0, 0, 3, 0, 0] and total_width(found) == 7
    hot, first = np.eye(3)[[0, 2, 1]], np.array([True, False, False])
    assert is_one_hot(hot, first) and is_one_hot(hot * ~first[:, None], first)
    assert not is_one_hot(hot * first[:, None], first)  # nothing done, later on
    assert not is_one_hot(hot * 0.5, first) and not is_one_hot(hot[:, :1], first)


def test_what_minari_says_of_its_actions_describes_its_vectors():
    spaces = pytest.importorskip("gymnasium").spaces
    from core.data.formats.minari_actions import action_parts, action_vector

    space = spaces.Dict(
        {
            "b": spaces.Box(
                np.array([-2, -np.inf]), np.array([2, np.inf]), dtype=float
            ),
            "a": spaces.MultiDiscrete([2, 3]),
            "c": spaces.Tuple((spaces.Discrete(4), spaces.MultiBinary(2))),
        }
    )
    found = [about for part in action_parts(space) for about in part.about]
    assert found == [
        {"classes": 2},
        {"classes": 3},
        {"low": [-2, None], "high": [2, None]},
        {"classes": 4},
        *[{"classes": 2}] * 2,
    ]
    one = space.sample()
    rows = {k: np.stack([x] * 3) for k, x in one.items() if k != "c"}
    rows["c"] = tuple(np.stack([x] * 3) for x in one["c"])
    width = total_width(sorted_spaces(spaces_of(found)))
    assert action_vector(space, rows).shape == (3, width)


def test_recordings_fill_a_replay(tmp_path):
    """Two streams take four episodes of a data set in another format."""
    recordings = source_names.recordings(robots.write_lerobot(tmp_path / "robot"))
    kinds = {
        "images_top": ((32, 32, 3), "uint8"),
        "state": ((2,), "float32"),
        "action": ((2,), "float32"),
    }
    shapes = {k: x for k, x in SHAPES.items() if k != "place"} | kinds
    folder = tmp_path / "replay"
    size = {"streams": 2, "capacity": 400, "length": LENGTH}
    replay = Replay(folder, shapes, kept=KEPT, **size)
    recorded.fill(replay, recordings, PUSH, action_bounds="-100,700")
    # Stream 0 takes episodes of 7 and of 9 steps, and 1 that of 12; then 0 or 1 takes the
    # one of 30, and the other one has none.
    ends = [
        np.concatenate([robots.truth(i)["state"] for i in ids])
        for ids in ((0, 2, 3), (1, 3))
    ]
    assert replay.added == 16 and not replay.bad
    np.testing.assert_array_equal(replay.steps["state"][0, :16], ends[0][:16])
    np.testing.assert_array_equal(replay.steps["state"][1, :12], ends[1][:12])
    units = (robots.truth(0)["action"] + 100) / 400 - 1
    np.testing.assert_allclose(replay.steps["action"][0, :6], units[:6], atol=1e-6)
    assert not replay.steps["action"][0, 6].any()  # after the last step
    pictures = np.concatenate([robots.truth(i)["images_top"] for i in (0, 2)])
    np.testing.assert_array_equal(replay.steps["images_top"][0, :16], pictures)
    assert not replay.steps["memory"].any() and not replay.steps["code"].any()
    assert np.flatnonzero(replay.steps["is_first"][0]).tolist() == [0, 7]
    replay.save()
    again = source_names.recordings(str(folder))
    np.testing.assert_array_equal(again.load(0)["state"], ends[0][:16])
    other = Replay(tmp_path / "other", {**SHAPES, **shapes}, kept=KEPT, **size)
    with pytest.raises(ValueError, match="gives 0 steps .*: 'place' is absent"):
        recorded.fill(other, recordings, PUSH, action_bounds="-100,700")
