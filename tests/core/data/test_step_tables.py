"""Tables of steps in HDF5 and Lance, written here with h5py and pylance, read as recordings."""

import cv2
import numpy as np
import pytest

from core.data import source_names
from core.data.formats import step_tables
from core.data.records import BadSample

h5py = pytest.importorskip("h5py")
LENGTHS = (5, 3, 4)


def episodes(seed=0):
    """Columns of whole episodes by name; the last action of each is NaN."""
    rng = np.random.default_rng(seed)
    found = []
    for number, T in enumerate(LENGTHS):
        action = rng.normal(size=(T, 2)).astype(np.float32)
        action[-1] = np.nan
        reward = rng.normal(size=T)
        reward[0] = np.nan
        low = rng.integers(0, 255, (T, 3, 3, 3), np.uint8)
        pixels = np.stack([cv2.resize(x, (24, 20)) for x in low])
        found.append(
            {
                "pixels": pixels,
                "goal": pixels[::-1],
                "action": action,
                "reward": reward,
                "proprio": rng.normal(size=(T, 4)),
                "state": rng.normal(size=(T, 7)),
                "terminated": np.arange(T) == (T - 1 if number == 1 else T),
            }
        )
    return found


def write_hdf5(path, **changes):
    whole = episodes()
    with h5py.File(path, "w") as file:
        for name in whole[0]:
            file[name] = np.concatenate([x[name] for x in whole])
        file["ep_len"] = np.array(LENGTHS, np.int32)
        file["ep_offset"] = np.cumsum((0, *LENGTHS[:-1]))
        for name, x in changes.items():
            if name in file:
                del file[name]
            if x is not None:
                file[name] = x
    return path


def write_lance(folder, numbers=None):
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    whole = episodes()

    def column(name):
        x = np.concatenate([one[name] for one in whole])
        if name in ("pixels", "goal"):
            files = [cv2.imencode(".png", p[..., ::-1])[1].tobytes() for p in x]
            return pa.array(files, pa.binary())
        x = np.asarray(x, np.float32).reshape(len(x), -1)
        return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])

    columns = {name: column(name) for name in whole[0]}
    if numbers is None:
        numbers = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    columns["episode_idx"] = pa.array(numbers)
    columns["step_idx"] = pa.array(np.concatenate([np.arange(n) for n in LENGTHS]))
    lance.write_dataset(pa.table(columns), str(folder))
    return folder


@pytest.mark.parametrize("kind", ["hdf5", "lance"])
def test_episodes_are_those_that_were_written(tmp_path, kind):
    path = (
        write_hdf5(tmp_path / "push.h5")
        if kind == "hdf5"
        else write_lance(tmp_path / "push.lance")
    )
    assert source_names.is_trajectories(str(tmp_path))  # the only table of the folder
    found = source_names.recordings(str(path))
    assert len(found) == len(LENGTHS)
    assert found.about["action"] == [{"low": [None] * 2, "high": [None] * 2}]
    for index, true in enumerate(episodes()):
        steps, T = found.load(index), LENGTHS[index]
        np.testing.assert_array_equal(steps["pixels"][1:T], true["pixels"][1:])
        np.testing.assert_array_equal(steps["pixels"][1:T:2], true["pixels"][1::2])
        np.testing.assert_array_equal(steps["log/goal"][:], true["goal"])
        np.testing.assert_array_equal(steps["action"][:-1], true["action"][:-1])
        assert (steps["action"][-1] == 0).all() and steps["reward"][0] == 0
        np.testing.assert_allclose(steps["reward"][1:], true["reward"][1:], rtol=1e-6)
        np.testing.assert_allclose(steps["proprio"], true["proprio"], rtol=1e-6)
        np.testing.assert_allclose(steps["log/state"], true["state"], rtol=1e-6)
        assert steps["is_first"].tolist() == [t == 0 for t in range(T)]
        assert steps["is_terminal"][-1] == (index == 1)


def test_windows_of_a_table_train(tmp_path):
    """A window has the action before each step, as every other format gives it."""
    path = write_hdf5(tmp_path / "push.h5")
    windows = source_names.trajectories(
        str(path), "train", steps=3, apart=1, world=lambda: None
    )
    window = windows.load(0)
    np.testing.assert_array_equal(window["action"][1:], episodes()[0]["action"][:2])
    assert window["pixels"].shape == (3, 20, 24, 3)


def test_windows_within_an_episode_come_from_those_that_are_long_enough(tmp_path):
    path = write_hdf5(tmp_path / "push.h5", version=3)  # a number that is no column
    windows = source_names.trajectories(
        str(path), "", steps=5, apart=1, world=lambda: None, cross_episodes=False
    )
    for index in range(3):  # the first episode alone has five steps
        window, pixels = windows.load(index), episodes()[0]["pixels"]
        for step in (1, 2):
            np.testing.assert_array_equal(window["pixels"][::step], pixels[::step])
        assert not isinstance(window["log/goal"], np.ndarray)  # not read


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"action": None}, "expected 'action' among them"),
        ({"action": 1.0}, "expected 'action' among them"),
        ({"ep_len": None}, "has no 'ep_len'; expected a file of stable-worldmodel"),
        ({"ep_offset": [0, 4, 8]}, "ep_offset is not the sum of the lengths"),
        ({"reward": np.zeros(9)}, "'reward' has 9 rows; its episodes have 12 steps"),
        ({"ep_len": [0], "ep_offset": [0]}, "has no episodes"),
        ({"pixels": h5py.ExternalLink("/etc/passwd", "x")}, "'pixels' lies in another"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_damaged_file_is_one_sentence(tmp_path, changes, words):
    path = write_hdf5(tmp_path / "push.h5", **changes)
    with pytest.raises(ValueError, match=words):
        source_names.recordings(str(path))


def test_a_cut_file_and_two_tables_are_refused(tmp_path):
    path = write_hdf5(tmp_path / "push.h5")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="push.h5 cannot be read: "):
        step_tables.StepTable(str(path))
    (tmp_path / "other.h5").touch()
    with pytest.raises(
        ValueError, match="holds 2 tables, such as other.h5 and push.h5"
    ):
        step_tables.is_step_table(str(tmp_path))


@pytest.mark.parametrize("channels", [1, 2, 4, 9])
def test_pictures_have_one_or_three_channels(tmp_path, channels):
    pixels = np.ones((sum(LENGTHS), 20, 24, channels), np.uint8)
    steps = step_tables.StepTable(str(write_hdf5(tmp_path / "a.h5", pixels=pixels)))
    if channels == 1:
        assert steps.load(0)["pixels"][:].shape == (LENGTHS[0], 20, 24, 3)
        return
    with pytest.raises(BadSample, match="'pixels' is uint8 .*one or three channels"):
        steps.load(0)["pixels"][:]


def test_an_action_that_is_not_known_makes_a_bad_sample(tmp_path):
    action = np.concatenate([x["action"] for x in episodes()])
    action[2] = np.nan
    found = step_tables.StepTable(str(write_hdf5(tmp_path / "a.h5", action=action)))
    with pytest.raises(BadSample, match="'action' is not finite at step 2 of 5"):
        found.load(0)
    assert len(found.load(1)["action"]) == LENGTHS[1]


def test_lance_episodes_lie_one_after_another(tmp_path):
    folder = write_lance(
        tmp_path / "a.lance", numbers=[0, 0, 1, 1, 0, 0, 2, 2, 2, 3, 3, 3]
    )
    with pytest.raises(ValueError, match="episode_idx falls from 1 to 0 at row 4"):
        step_tables.StepTable(str(folder))
