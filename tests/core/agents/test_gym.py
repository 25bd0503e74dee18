"""Gymnasium: pictures are the right way up, numbers and choices keep their meaning."""

import re

import numpy as np
import pytest

gymnasium = pytest.importorskip(
    "gymnasium", reason="gymnasium is in requirements-envs.txt"
)

from gymnasium import spaces  # noqa: E402
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete  # noqa: E402

from core.agents.envs import gym_spaces  # noqa: E402
from core.agents.envs.checks import check  # noqa: E402
from core.agents.envs.make import make  # noqa: E402
from core.agents.spaces import Space  # noqa: E402


def pattern(h, w):
    """Red on the left half, blue on the lower half: [h, w, 3]."""
    x = np.zeros((h, w, 3), np.uint8)
    x[:, : w // 2, 0] = x[h // 2 :, :, 2] = 255
    return x


RED, BLUE = pattern(64, 80)[..., :1], pattern(64, 80)[..., 2:]
COLOR = pattern(64, 80)


@pytest.mark.parametrize(
    "native, low, high, expected",
    [
        (COLOR, 0, 255, COLOR),
        (COLOR.transpose(2, 0, 1), 0, 255, COLOR),
        (RED[..., 0], 0, 255, RED),
        (RED, 0, 255, RED),
        (RED.transpose(2, 0, 1), 0, 255, RED),
        (np.stack([RED[..., 0], BLUE[..., 0]] * 2), 0, 255, [RED, BLUE, RED, BLUE]),
        (np.concatenate([RED, BLUE, RED, BLUE], -1), 0, 255, [RED, BLUE, RED, BLUE]),
        (np.stack([COLOR, COLOR[::-1]]), 0, 255, [COLOR, COLOR[::-1]]),
        (np.stack([RED, BLUE]), 0, 255, [RED, BLUE]),
        (np.stack([COLOR.transpose(2, 0, 1)] * 2), 0, 255, [COLOR, COLOR]),
        (COLOR / np.float32(255), 0, 1, COLOR),
        (COLOR.astype(np.float64), 0, 255, COLOR),
        (COLOR.astype(np.int32), 0, 255, COLOR),
        ((RED[..., 0] / 255).astype(np.float32), 0, 1, RED),
    ],
)
def test_pictures_come_channel_last(native, low, high, expected):
    space = Box(low, high, native.shape, native.dtype)
    expected = np.concatenate(expected, -1) if isinstance(expected, list) else expected
    [(name, seen)] = gym_spaces.observations(space, size=32).items()
    assert (name, seen.space) == ("image", Space((32, 32, expected.shape[-1]), "uint8"))
    found = seen.read(native)
    assert found.dtype == np.uint8
    # Each pixel of the small picture is the mean of 2 x 2.5 of the large one.
    np.testing.assert_array_equal(found[:, [3, 28]], expected[::2][:, [8, 72]])


@pytest.mark.parametrize(
    "space, message",
    [
        (Box(0, 255, (64, 64, 64), np.uint8), r"uint8 \(64, 64, 64\) from 0 to 255, "),
        (Box(0, 10, (48, 64, 1), np.float32), r"float32 \(48, 64, 1\) from 0 to 10, "),
        (Box(0, 1, (84, 84), np.uint8), r"uint8 \(84, 84\) from 0 to 1, which is not"),
        (Box(-1, 1, (84, 84), np.float32), "not a picture"),
        (Box(0, 65535, (64, 64, 3), np.uint16), "not a picture"),
        (Box(0, 255, (40, 64, 64, 3), np.uint8), "not a picture"),
        (Discrete(100_000), "has 100,000 classes; expected 65,536 or fewer"),
        (spaces.Text(5), "is Text.*, which the networks do not read"),
        (spaces.Sequence(Discrete(2)), "is Sequence.*, which the networks do not read"),
        (spaces.Graph(Discrete(2), None), "is Graph.*, which the networks do not read"),
        (spaces.OneOf([Discrete(2)]), "is OneOf.*, which the networks do not read"),
    ],
)
def test_what_cannot_be_read_says_why(space, message):
    [seen] = gym_spaces.observations(space, size=32).values()
    assert isinstance(seen.space, str)
    assert re.search(message, seen.space), seen.space


@pytest.mark.parametrize(
    "space, expected, native, found",
    [
        (Box(0, 255, (128,), np.uint8), Space((128,)), None, None),
        (Box(0, 255, (4, 128), np.uint8), Space((4, 128)), None, None),
        (Box(0, 255, (7, 7, 3), np.uint8), Space((7, 7, 3)), None, None),
        (Box(-9, 9, (5, 20), np.float64), Space((5, 20)), None, None),
        (Box(0, 3, (), np.int64), Space((1,)), 2, [2]),
        (Discrete(5, start=-2), Space((), "int32", 5), -1, 1),
        (MultiDiscrete([3, 9]), Space((2,), "int32", 9), [2, 8], [2, 8]),
        (
            spaces.MultiBinary(5),
            Space((5,), "int32", 2),
            [0, 1, 1, 0, 1],
            [0, 1, 1, 0, 1],
        ),
    ],
)
def test_numbers_and_choices(space, expected, native, found):
    [(name, seen)] = gym_spaces.observations(space, size=32).items()
    assert (name, seen.space) == ("state", expected)
    native = space.sample() if native is None else native
    np.testing.assert_array_equal(seen.read(native), native if found is None else found)


def test_parts_of_tuples_and_dicts_have_names():
    space = spaces.Tuple(
        (Discrete(3), Dict({"a": Discrete(2), "none": Box(0, 1, (0,))}))
    )
    found = gym_spaces.observations(space, size=32)
    assert list(found) == ["state/0", "state/1/a"]
    assert [found[k].read((2, {"a": 1, "none": []})) for k in found] == [2, 1]
    acted = gym_spaces.actions(spaces.Dict({"hands": spaces.Tuple((Discrete(2),) * 2)}))
    assert list(acted.spaces) == ["hands/0", "hands/1"]
    assert acted.make({"hands/0": 1, "hands/1": 0}) == {"hands": (1, 0)}


@pytest.mark.parametrize(
    "space, expected, named, native",
    [
        (Box(0, 10, (2,), np.int64), {"action": Space((2,), "int32", 11)}, [3, 10], [3, 10]),
        (Box(-2, 1, (), np.int32), {"action": Space((), "int32", 4)}, 3, 1),
        (spaces.MultiBinary(3), {"action": Space((3,), "int32", 2)}, [1, 0, 1], [1, 0, 1]),
        (MultiDiscrete([3, 3], start=[1, -2]), {"action": Space((2,), "int32", 3)},
         [2, 0], [3, -2]),
        (Discrete(3, start=1), {"action": Space((), "int32", 3)}, 0, 1),
    ],
)  # fmt: skip
def test_choices_are_elements_of_their_space(space, expected, named, native):
    acted = gym_spaces.actions(space)
    assert acted.spaces == expected and not acted.bounds
    found = acted.make({"action": np.array(named)})
    np.testing.assert_array_equal(found, native)
    assert space.contains(found)


@pytest.mark.parametrize(
    "space, message",
    [
        (spaces.OneOf((Discrete(2), Box(-1, 1, (1,)))), "'action' is OneOf"),
        (spaces.Text(4), "'action' is Text"),
        (Box(0, 2**31 - 1, (1,), np.int32), "a choice among 2,147,483,648 integers"),
        (Discrete(10**9), "a choice among 1,000,000,000 integers"),
    ],
)
def test_actions_that_no_agent_chooses(space, message):
    with pytest.raises(ValueError, match=message):
        gym_spaces.actions(space)


class Odd(gymnasium.Env):
    """Gives what its class says, whatever its spaces say."""

    observation_space, action_space = Box(0, 1, (32, 32, 3)), Discrete(2)
    start = np.zeros((32, 32, 3), np.float32), {}
    answer = np.zeros((32, 32, 3), np.float32), np.array([2.0]), False, False, {}

    def reset(self, *, seed=None, options=None):
        return self.start

    def step(self, action):
        return self.answer


def odd(**changes):
    gymnasium.register("Odd-v0", type("Changed", (Odd,), changes))
    try:
        env = make("gym:Odd-v0", seed=0)
    finally:
        del gymnasium.registry["Odd-v0"]
    return [env.step({"action": 0, "reset": i == 0}) for i in range(2)]


def test_answers_of_other_forms():
    assert odd()[1]["reward"] == 2
    zeros = Odd.start[0]
    for changes, message in (
        ({"start": zeros}, r"reset\(\) gives no tuple; expected 2"),
        ({"answer": Odd.answer[:4]}, r"step\(\) gives 4 parts; expected 5, .*shimmy"),
        (
            {"answer": (zeros, np.ones(2), False, False, {})},
            "the reward is .*one number",
        ),
        (
            {"start": (zeros + 255, {})},
            "a picture holds 255 to 255; its space says 0 to 1",
        ),
        ({"start": (zeros * np.nan, {})}, "a picture holds nan to nan"),
        (
            {"start": (zeros[0], {})},
            r"a picture is \(32, 3\); its space says \(32, 32, 3\)",
        ),
        ({"reset": lambda self: Odd.start}, "cannot be seeded"),
    ):
        with pytest.raises(ValueError, match=message):
            odd(**changes)


def test_every_id_runs_or_says_what_to_install():
    """One of each kind of failure in gymnasium's registry, and those of other packages."""

    def fails(error):
        def broken(**_):
            raise error

        return broken

    for error in (
        ImportError("pip install x"),
        KeyError("x"),
        AssertionError("no\ndisk"),
    ):
        gymnasium.register("Broken-v0", fails(error))
        with pytest.raises(ValueError, match="cannot make gym:Broken-v0: ") as raised:
            make("gym:Broken-v0", seed=0)
        del gymnasium.registry["Broken-v0"]
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="cannot make gym:nosuchmodule:X-v0"):
        make("gym:nosuchmodule:X-v0", seed=0)
    with pytest.raises(ValueError, match="'CartPol-v1' is no environment of gym"):
        make("gym:CartPol-v1", seed=0)


def test_gym_spaces_of_all_kinds():
    class Zoo(gymnasium.Env):
        observation_space = Dict(
            {
                "eye": Box(0, 255, (20, 18, 1), np.uint8),
                "inner": Dict({"mood": Discrete(3, start=-1)}),
                "limbs": MultiDiscrete([2, 4]),
                "heat": Box(-1, 1, ()),
            }
        )
        action_space = Dict(
            {
                "go": Box(np.array([0, -1]), np.array([10, 1]), dtype=np.float64),
                "say": MultiDiscrete([2, 3]),
                "hands": Dict({"grip": Discrete(4, start=5)}),
            }
        )
        done = []

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            found = self.observation_space.sample()
            return found | {"inner": {"mood": np.int64(1)}, "heat": 0.5}, {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.done.append(action)
            return self.reset()[0], 1, False, len(self.done) == 2, {}

    gymnasium.register("Zoo-v0", Zoo)
    try:
        env = make("gym:Zoo-v0", seed=0, size=16)
    finally:
        del gymnasium.registry["Zoo-v0"]
    assert env.observations == {
        "eye": Space((16, 16, 1), "uint8"),
        "inner/mood": Space((), "int32", 3),
        "limbs": Space((2,), "int32", 4),
        "heat": Space((1,)),
    }
    assert env.actions == {
        "go": Space((2,)),
        "say_0": Space((), "int32", 2),
        "say_1": Space((), "int32", 3),
        "hands/grip": Space((), "int32", 4),
    }
    step = check(env.step({"reset": True}), env)
    assert step["inner/mood"] == 2 and step["heat"] == [0.5]
    say = {"say_0": 1, "say_1": 2, "hands/grip": 3}
    go = say | {"go": np.array([0.5, -0.25]), "reset": False}
    steps = [check(env.step(go), env) for _ in range(3)]
    done = Zoo.done[0]
    assert done["go"].tolist() == [7.5, -0.25] and done["say"].tolist() == [1, 2]
    assert done["hands"]["grip"] == 8
    assert [s["is_last"] for s in steps] == [False, True, False]
    assert not any(s["is_terminal"] for s in steps)
