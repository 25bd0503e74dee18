"""RLDS: names, types and flags of features; pictures, depth and actions."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets
from tfds_files import write_version

from core.data import source_names
from core.data.episodes.steps import check_steps, is_observation
from core.data.formats.rlds import action_parts, translate_episode
from core.data.records import BadSample

F = tensorflow_datasets.features
REAL = F.Tensor(shape=(2,), dtype=np.float32)
COUNT = 4


def png(x) -> bytes:
    """An image in the channel order of the file, as bytes."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(x.shape[-1], [0])
    return cv2.imencode(".png", x[..., order])[1].tobytes()


def read(step, rows, folder, **options):
    """The steps of the one episode of a data set that is written and opened again."""
    place = write_version(folder / "toy" / "1.0.0", step, [rows], **options)
    return check_steps(source_names.recordings(place).load(0))


def reals(t):
    return np.full(2, t, np.float32)


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_depth_keeps_its_numbers(form, tmp_path):
    """16-bit and float32 images, and float32 arrays, beside colors and gray."""
    rng = np.random.default_rng(0)
    shape = (COUNT, 20, 24)
    arrays = {
        "rgb": rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
        "rgba": rng.integers(0, 256, (*shape, 4)).astype(np.uint8),
        "deep": rng.integers(0, 65536, (*shape, 3)).astype(np.uint16),
        "gray": rng.integers(0, 256, (*shape, 1)).astype(np.uint8),
        "depth": rng.integers(0, 65536, (*shape, 1)).astype(np.uint16),
        "far": rng.normal(size=(*shape, 1)).astype(np.float32) * 1e4,
        "array": rng.normal(size=(*shape, 1)).astype(np.float32),
        "plane": rng.integers(0, 65536, shape).astype(np.uint16),
        "first": rng.integers(0, 256, (COUNT, 3, 20, 24)).astype(np.uint8),
    }
    images = ("rgb", "rgba", "deep", "gray", "depth", "far")
    kinds = {
        name: (F.Image if name in images else F.Tensor)(
            shape=x.shape[1:], dtype=x.dtype.type
        )
        for name, x in arrays.items()
    }
    bits = arrays["far"].view(np.uint8).reshape(*shape, 4)

    def file(name, t):
        if name not in images:
            return arrays[name][t]
        return png(bits[t] if name == "far" else arrays[name][t])

    rows = [
        {"observation": {name: file(name, t) for name in arrays}, "action": reals(t)}
        for t in range(COUNT)
    ]
    step = {"observation": kinds, "action": REAL}
    found = read(step, rows, tmp_path, form=form)
    maps = ("deep", "depth", "far", "array", "plane")
    for name, x in arrays.items():
        ours = f"log/{name}" if name in maps else name
        y = found[ours][1:3]
        expected = x[1:3].transpose(0, 2, 3, 1) if name == "first" else x[1:3]
        assert y.dtype == x.dtype and is_observation(ours) == (name not in maps)
        np.testing.assert_array_equal(y, expected, err_msg=name)


def test_reserved_names_are_kept_beside_the_schema(tmp_path):
    inside = {name: REAL for name in ("action", "reward", "time", "is_first", "log")}
    inside["arm"] = {"joint": REAL}
    step = {
        "observation": inside | {"timestamp": np.float64, "instruction": F.Text()},
        "action": REAL,
        "reward": np.float32,
        "time": REAL,
        "language_instruction": F.Text(),
        "note": F.Text(),
    }
    rows = []
    for t in range(COUNT):
        seen = {name: reals(10 * k + t) for k, name in enumerate(inside)}
        seen["arm"] = {"joint": reals(50 + t)}
        seen |= {"timestamp": 0.1 * t, "instruction": "inside"}
        rows.append(
            {"observation": seen, "action": reals(-t), "reward": t, "time": reals(90)}
            | {"language_instruction": "beside", "note": f"{t}"}
        )
    found = read(step, rows, tmp_path)
    assert set(found) == {
        *("observation_action", "observation_reward", "observation_time", "arm_joint"),
        *("observation_is_first", "action", "reward", "time", "language", "log/note"),
        *("is_first", "is_last", "is_terminal", "log/time", "observation_log"),
        "log/instruction",
    }
    names = ("action", "reward", "time", "is_first")
    for k, name in enumerate(names):
        x = found[f"observation_{name}"]
        np.testing.assert_array_equal(x[:, 0], 10 * k + np.arange(COUNT))
    np.testing.assert_array_equal(found["action"][:, 0], -np.arange(COUNT))
    np.testing.assert_array_equal(found["reward"], [0, 0, 1, 2 + 3])
    np.testing.assert_allclose(found["time"], 0.1 * np.arange(COUNT), rtol=1e-6)
    assert found["language"][0] == "beside" and found["log/instruction"][0] == "inside"


def test_an_observation_without_names_is_the_state(tmp_path):
    rows = [{"observation": reals(t), "action": reals(t)} for t in range(COUNT)]
    found = read({"observation": REAL, "action": REAL}, rows, tmp_path)
    np.testing.assert_array_equal(found["state"][:, 0], np.arange(COUNT))


def test_actions_say_what_they_are(tmp_path):
    step = {
        "observation": {"x": REAL},
        "action": {"turn": F.ClassLabel(num_classes=3), "go": REAL, "open": np.bool_},
    }
    rows = [
        {"observation": {"x": reals(t)}}
        | {"action": {"turn": t % 3, "go": reals(t), "open": t % 2 == 1}}
        for t in range(COUNT)
    ]
    found = read(step, rows, tmp_path)
    np.testing.assert_array_equal(found["action"][1], [1, 1, 1, 0, 1, 0])
    none = {"low": [None], "high": [None]}
    parts = source_names.recordings(str(tmp_path / "toy")).about["action"]
    assert parts == [{k: x * 2 for k, x in none.items()}, none, {"classes": 3}]
    kinds = {"action": F.Scalar(np.int64), "observation/x": REAL}
    with pytest.raises(
        ValueError, match="'action' is one int64 of an unknown number of"
    ):
        action_parts(kinds)


def test_flags_inside_of_an_example_begin_and_end_episodes():
    kinds = {"observation": REAL, "action": REAL}
    marks = {"is_first": {3}, "is_last": {5}, "is_terminal": {5, 6}}
    rows = [
        {name: t in at for name, at in marks.items()}
        | {"observation": reals(t), "action": reals(t), "reward": float(t)}
        for t in range(9)
    ]
    found = translate_episode(kinds, rows)
    assert np.flatnonzero(found["is_first"]).tolist() == [0, 3, 6]
    assert np.flatnonzero(found["is_last"]).tolist() == [2, 5, 8]
    assert np.flatnonzero(found["is_terminal"]).tolist() == [5]
    # The reward of an action comes with the next step, or stays at the end.
    expected = [0, 0, 1 + 2, 0, 3, 4 + 5, 0, 6, 7 + 8]
    np.testing.assert_array_equal(found["reward"], expected)


@pytest.mark.parametrize(
    ("kinds", "values", "words"),
    [
        (
            {"observation/a/b": REAL, "observation/a_b": REAL},
            {"observation/a/b": reals(0), "observation/a_b": reals(0)},
            "both 'observation/a/b' and 'observation/a_b', .* one array 'a_b'",
        ),
        (
            {"observation/rgb": F.Image(shape=(8, 8, 1))},
            {"observation/rgb": b"no image"},
            "not an image that can be decoded",
        ),
        (
            {"observation/rgb": F.Image(shape=(8, 8, 1))},
            {"observation/rgb": png(np.zeros((8, 8, 1), np.uint16))},
            "image is uint16 with 1 channels; features.json says uint8 with 1",
        ),
        (
            {"observation/x": F.Sequence(np.float32)},
            {"observation/x": np.array([object()])},
            "'observation/x' has object values; expected numbers",
        ),
        ({"reward": REAL}, {"reward": reals(0)}, r"'reward' is \(2,\); expected one"),
    ],
)
def test_what_cannot_be_read_is_named(kinds, values, words):
    kinds, row = kinds | {"action": REAL}, values | {"action": reals(0)}
    with pytest.raises(BadSample, match=words):
        for x in translate_episode(kinds, [row] * 2).values():
            x[0:2]
