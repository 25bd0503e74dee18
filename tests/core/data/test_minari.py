"""Minari: names, pictures and actions of gymnasium's spaces; damaged files."""

import json

import numpy as np
import pytest
import robots

from core.data import source_names
from core.data.episodes.steps import check_steps
from core.data.records import BadSample

gymnasium = pytest.importorskip("gymnasium")
minari = pytest.importorskip("minari")
from core.data.formats.minari import named_arrays, open_dataset  # noqa: E402
from core.data.formats.minari_actions import action_parts, action_vector  # noqa: E402

spaces = gymnasium.spaces
BIG = float(np.finfo(np.float32).max)


def about(space):
    return [about for part in action_parts(space) for about in part.about]


def names(space):
    return [part.name for part in action_parts(space)]


def test_actions_keep_their_units_and_their_bounds():
    """Infinite, huge and half-open bounds are none; numbers are never scaled."""
    low, high = np.float32([-2, -np.inf, -1, -BIG]), np.float32([2, np.inf, 1e10, 0])
    space = spaces.Box(low, high, dtype=np.float32)
    assert about(space) == [{"low": [-2, None, -1, None], "high": [2, None, None, 0]}]
    actions = np.float32([[2, 5, 1e5, -7]])
    np.testing.assert_array_equal(action_vector(space, actions), actions)
    assert json.loads(json.dumps(about(space), allow_nan=False)) == about(space)


def test_discrete_actions_stay_discrete():
    both = spaces.Dict(
        {"turn": spaces.Discrete(3, start=-1), "grip": spaces.Box(-1, 1, (1,))}
    )
    actions = {"turn": np.array([-1, 1]), "grip": np.array([[0.5], [-0.5]])}
    expected = [[0.5, 1, 0, 0], [-0.5, 0, 0, 1]]
    np.testing.assert_array_equal(action_vector(both, actions), expected)
    assert names(both) == ["grip", "turn"]
    assert about(both) == [{"low": [-1], "high": [1]}, {"classes": 3}]
    many = spaces.MultiDiscrete([2, 3])
    expected = [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    found = action_vector(many, np.array([[1, 0], [0, 2]]))
    np.testing.assert_array_equal(found, expected)
    assert names(many) == ["action_0", "action_1"]
    assert about(many) == [{"classes": 2}, {"classes": 3}]
    for space in (
        spaces.MultiBinary(2),
        spaces.MultiDiscrete([2, 2]),
        spaces.Box(0, 1, (2,), np.int64),
    ):
        assert names(space) == ["action"] and about(space) == [{"classes": 2}] * 2
        found = action_vector(space, np.array([[1, 0]]))
        np.testing.assert_array_equal(found, [[0, 1, 1, 0]])
    pair = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,))])
    assert names(pair) == ["action/0", "action/1"]
    with pytest.raises(BadSample, match="not always an integer in 0 to 2"):
        action_vector(spaces.Discrete(3), np.array([3]))
    with pytest.raises(
        ValueError, match="'action' is an action of Text, which is no v"
    ):
        action_parts(spaces.Text(4))
    with pytest.raises(
        ValueError, match="'action' is a choice among 1,000,000 integers"
    ):
        action_parts(spaces.Discrete(10**6))


def test_observations_with_reserved_names_are_kept_beside_the_schema():
    inside = {name: spaces.Box(-9, 9, (1,)) for name in ("action", "time", "log", "x")}
    space = spaces.Dict({"reward": spaces.Box(-9, 9, (2,)), "in": spaces.Dict(inside)})
    space["is_first"] = spaces.Discrete(2)
    values = {"reward": np.ones((3, 2)), "is_first": np.array([0, 1, 1])}
    values["in"] = {name: np.full((3, 1), 2.0) for name in inside}
    found = named_arrays(space, values)
    assert set(found) == {
        *("observation_reward", "observation_is_first"),
        *("in_action", "in_time", "in_log", "in_x"),
    }
    np.testing.assert_array_equal(found["observation_is_first"][:, 0], [0, 1, 1])
    space = spaces.Dict({"a_b": inside["x"], "a": spaces.Dict({"b": inside["x"]})})
    twice = {"a_b": np.ones((3, 1)), "a": {"b": np.ones((3, 1))}}
    with pytest.raises(
        BadSample, match="both .*a.b.* which would become one array 'a_b'"
    ):
        named_arrays(space, twice)
    texts = {"mission": ["go", "go"], "instruction": ["no", "no"], "note": ["x", "y"]}
    space = spaces.Dict({name: spaces.Text(9) for name in texts})
    found = {name: x.tolist() for name, x in named_arrays(space, texts).items()}
    assert found == {
        "language": ["no", "no"],
        "log/mission": ["go", "go"],
        "log/note": ["x", "y"],
    }


@pytest.mark.parametrize(
    ("form", "form_of_picture"),
    [
        ((20, 24, 3), lambda x: x),
        ((3, 20, 24), lambda x: x.transpose(0, 2, 3, 1)),
        ((20, 24), lambda x: x[..., None]),
        ((4, 20, 24), lambda x: x.transpose(0, 2, 3, 1)),
        (
            (2, 3, 20, 24),
            lambda x: np.concatenate(
                [x[:, 0].transpose(0, 2, 3, 1), x[:, 1].transpose(0, 2, 3, 1)], -1
            ),
        ),
        ((2, 20, 24, 3), lambda x: np.concatenate([x[:, 0], x[:, 1]], -1)),
    ],
)
def test_pictures_are_channel_last(form, form_of_picture):
    x = np.random.default_rng(0).integers(0, 256, (3, *form)).astype(np.uint8)
    found = named_arrays(spaces.Box(0, 255, form, np.uint8), x)
    np.testing.assert_array_equal(found["image"], form_of_picture(x))
    real = (x / 255).astype(np.float32)
    found = named_arrays(spaces.Box(0, 1, form, np.float32), real)
    assert found["image"].dtype == np.uint8
    np.testing.assert_array_equal(found["image"], form_of_picture(x))
    # Depth, or another unknown range: a map in its own type.
    deep = real * 9
    found = named_arrays(spaces.Box(0, 9, form, np.float32), deep)
    np.testing.assert_array_equal(found["log/state"], deep)
    with pytest.raises(BadSample, match="holds 0 to 9; its space says 0 to 1"):
        deep[0] = 9
        deep[1] = 0
        named_arrays(spaces.Box(0, 1, form, np.float32), deep)


def test_small_grids_are_numbers_and_blocks_are_maps():
    codes = np.full((3, 7, 7, 3), 5, np.uint8)
    found = named_arrays(spaces.Box(0, 255, (7, 7, 3), np.uint8), codes)
    assert found["state"].dtype == np.float32 and found["state"].shape == (3, 7, 7, 3)
    block = np.zeros((2, 20, 20, 20), np.uint8)
    found = named_arrays(spaces.Box(0, 255, (20, 20, 20), np.uint8), block)
    assert set(found) == {"log/image"}


def test_damaged_files_name_the_file_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    place = robots.write_minari(tmp_path)
    [file] = tmp_path.glob("robot/push-v0/data/*.hdf5")
    content, metadata = file.read_bytes(), file.with_name("metadata.json")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for damaged, words in (
        (
            content[: len(content) // 2],
            r"main_data.hdf5 cannot be opened .*: it is cut, or",
        ),
        (b"", "main_data.hdf5 is empty; download it again"),
        (pointer, "main_data.hdf5 is a git-LFS pointer, .* git lfs pull"),
    ):
        file.write_bytes(damaged)
        open_dataset.cache_clear()
        with pytest.raises(ValueError, match=words):
            source_names.recordings(place)
    file.unlink()
    open_dataset.cache_clear()
    with pytest.raises(ValueError, match="main_data.hdf5 does not exist; download"):
        source_names.recordings(place)
    file.write_bytes(content)
    open_dataset.cache_clear()
    # An episode that is missing or shorter than its metadata says is blamed itself.
    import h5py

    with h5py.File(file, "a") as all_data:
        del all_data["episode_1"]
        all_data["episode_2"].attrs["total_steps"] = 99
    recordings = source_names.recordings(place)
    check_steps(recordings.load(0))
    with pytest.raises(BadSample, match="cannot be read: KeyError"):
        recordings.load(1)
    with pytest.raises(BadSample, match="has 8 steps; its metadata says 99"):
        recordings.load(2)
    assert recordings.name(2).endswith("push-v0: episode 2")
    kept = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(kept | {"total_episodes": 0}))
    open_dataset.cache_clear()
    with pytest.raises(ValueError, match="push-v0 has no episodes"):
        source_names.recordings(place)
