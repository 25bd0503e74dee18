"""The same few episodes of a robot in each trajectory format."""

import json
import warnings

import av
import cv2
import numpy as np
import pyarrow
import tensorflow_datasets
from pyarrow import parquet
from tfds_files import as_tfrecord

from core.data.formats.chunks import Chunk, write_chunk

RATE = 10
LENGTHS = (7, 12, 9, 30)
FEATURES = tensorflow_datasets.features


def truth(i, *, size=32) -> dict:
    """Episode i by the names of core/data/episodes/steps.py.

    All arrays are functions of i and the time, so a step is identified by its state.
    """
    n = LENGTHS[i]
    at = np.arange(n)
    state = np.stack([100 * i + at, -at], -1).astype(np.float32)
    picture = np.zeros((n, size, size, 3), np.uint8)
    for t in at:
        picture[t, : t % size, : size // 2] = (8 * t % 256, 40 * i, 200)
    action = state * 2 + 1
    reward = np.concatenate([[0], at[1:] * 0.5]).astype(np.float32)
    return {
        "images_top": picture,
        "state": state,
        "action": action,
        "reward": reward,
        "is_first": at == 0,
        "is_last": at == n - 1,
        "is_terminal": (at == n - 1) & (i % 2 == 0),
        "time": at / RATE,
        "language": np.array([f"push {i}"] * n),
    }


def earned(steps):
    """Rewards at the step of the action that earns them; 0 at the last step."""
    return np.append(steps["reward"][1:], 0).astype(np.float32)


def write_replay(folder):
    """The chunks of a replay, one per episode."""
    folder.mkdir()
    for i, n in enumerate(LENGTHS):
        write_chunk(folder, Chunk(i, 0, n), truth(i) | {"model/deter": np.zeros(n)})
    return str(folder)


class Episodes(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def __init__(self, **options):
        self.name = "episodes"
        super().__init__(file_format="array_record", **options)

    def _info(self):
        step = {
            "observation": {
                "images": {"top": FEATURES.Scalar(np.object_)},
                "state": FEATURES.Tensor(shape=(2,), dtype=np.float32),
                "timestamp": np.float64,
            },
            "action": FEATURES.Tensor(shape=(2,), dtype=np.float32),
            "reward": np.float32,
            "discount": np.float32,
            "is_first": np.bool_,
            "is_last": np.bool_,
            "is_terminal": np.bool_,
            "language_instruction": FEATURES.Text(),
        }
        fields = FEATURES.FeaturesDict({"steps": FEATURES.Dataset(step)})
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=fields, disable_shuffling=True
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(len(LENGTHS)):
            steps = truth(i)
            rows = []
            for t in range(LENGTHS[i]):
                seen = {"state": steps["state"][t], "timestamp": steps["time"][t]}
                file = cv2.imencode(".png", steps["images_top"][t][..., ::-1])[1]
                rows.append(
                    {
                        "observation": seen | {"images": {"top": file.tobytes()}},
                        "action": steps["action"][t],
                        "reward": earned(steps)[t],
                        "discount": 1.0,
                        "language_instruction": str(steps["language"][t]),
                        **{
                            k: steps[k][t]
                            for k in ("is_first", "is_last", "is_terminal")
                        },
                    }
                )
            yield i, {"steps": rows}


def write_rlds(folder):
    """RLDS. Writing an Image needs TensorFlow, so bytes are written and the feature is
    changed to Image afterwards; both are stored as the bytes of a file."""
    builder = Episodes(data_dir=str(folder))
    builder.download_and_prepare()
    path = folder / "episodes" / "1.0.0" / "features.json"
    spec = json.loads(path.read_text())
    step = spec["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    inside = step["featuresDict"]["features"]["observation"]["featuresDict"]["features"]
    shape = {"dimensions": ["32", "32", "3"]}
    inside["images"]["featuresDict"]["features"]["top"] = {
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
        "image": {"shape": shape, "dtype": "uint8", "encodingFormat": "png"},
    }
    path.write_text(json.dumps(spec))
    return str(folder / "episodes")


def write_tfrecord(folder):
    """RLDS in TFRecord, as Open X-Embodiment has it."""
    place = write_rlds(folder)
    as_tfrecord(folder / "episodes" / "1.0.0", shards=2)
    return place


def write_lerobot(folder, *, as_video=True, version="v3.0", **more):
    """LeRobot 3.0: all episodes in one Parquet file and one video."""
    places = {"chunk_index": 0, "file_index": 0}
    key, rows, episodes, begin = "observation.images.top", [], [], 0
    frames = []
    for i, n in enumerate(LENGTHS):
        steps = truth(i)
        for t in range(n):
            row = {
                "observation.state": steps["state"][t].tolist(),
                "action": steps["action"][t].tolist(),
                "next.reward": float(earned(steps)[t]),
                "next.done": bool(steps["is_terminal"][t]),
                "timestamp": float(np.float32(t / RATE)),
                "frame_index": t,
                "episode_index": i,
                "index": begin + t,
                "task_index": len(LENGTHS) - 1 - i,
            }
            picture = steps["images_top"][t]
            if as_video:
                frames.append(picture)
            else:
                file = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
                row[key] = {"bytes": file, "path": f"{t}.png"}
            rows.append(row | {k: x[i][t] for k, x in more.items()})
        where = {f"data/{k}": x for k, x in places.items()}
        where |= {f"videos/{key}/{k}": x for k, x in places.items()}
        where[f"videos/{key}/from_timestamp"] = begin / RATE
        where[f"videos/{key}/to_timestamp"] = (begin + n) / RATE
        episodes.append(
            {"episode_index": i, "length": n, "tasks": [f"push {i}"]}
            | {"stats/action/max": [0.0], **where}
        )
        begin += n
    name = "chunk-000/file-000"
    for part in ("data", "meta/episodes", f"videos/{key}"):
        (folder / part / "chunk-000").mkdir(parents=True)
    save = parquet.write_table
    save(pyarrow.Table.from_pylist(rows), folder / f"data/{name}.parquet")
    save(pyarrow.Table.from_pylist(episodes), folder / f"meta/episodes/{name}.parquet")
    tasks = {
        "task_index": list(range(len(LENGTHS))),
        "__index_level_0__": [f"push {i}" for i in range(len(LENGTHS))][::-1],
    }
    save(pyarrow.table(tasks), folder / "meta/tasks.parquet")
    if as_video:
        write_exact(folder / f"videos/{key}/{name}.mp4", frames)
    joints = {"dtype": "float32", "shape": [2], "names": {"motors": ["pan", "lift"]}}
    number = {"dtype": "float32", "shape": [1], "names": None}
    features = {
        key: {"dtype": "video" if as_video else "image", "shape": [32, 32, 3]},
        "observation.state": joints,
        "action": joints,
        "next.reward": number,
        "next.done": number | {"dtype": "bool"},
        "timestamp": number,
        **{k: number | {"dtype": "int64"} for k in ("index", "task_index")},
        **{k: number | {"dtype": "int64"} for k in ("frame_index", "episode_index")},
        **{name: number for name in more},
    }
    info = {
        "codebase_version": version,
        "fps": RATE,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/"
        "file-{file_index:03d}.mp4",
        "features": features,
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    return str(folder)


def write_exact(path, pictures):
    """A lossless video."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=RATE)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = "rgb24", {"qp": "0", "g": "4"}
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def write_minari(folder):
    """Minari, by its own package. The last observation of an episode has no action."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    box = gymnasium.spaces.Box
    buffers = []
    for i, n in enumerate(LENGTHS):
        steps = truth(i)
        over = steps["is_terminal"][1:].tolist()
        seen = {"images": {"top": steps["images_top"]}, "state": steps["state"]}
        ends = [False] * (n - 2) + [not over[-1]]
        buffers.append(
            EpisodeBuffer(
                observations=seen,
                actions=steps["action"][:-1],
                rewards=steps["reward"][1:].tolist(),
                terminations=over,
                truncations=ends,
            )
        )
    seen = {"state": box(-1000, 1000, (2,), np.float32)}
    seen["images"] = gymnasium.spaces.Dict({"top": box(0, 255, (32, 32, 3), np.uint8)})
    with warnings.catch_warnings(action="ignore"):  # it has no author
        minari.create_dataset_from_buffers(
            "robot/push-v0",
            buffer=buffers,
            observation_space=gymnasium.spaces.Dict(seen),
            action_space=box(-1000, 1000, (2,), np.float32),
            jpeg_encoding=False,
        )
    return str(folder / "robot" / "push-v0")


WRITERS = {
    "replay": write_replay,
    "rlds": write_rlds,
    "tfrecord": write_tfrecord,
    "lerobot": write_lerobot,
    "minari": write_minari,
}


def whole(steps):
    """The steps with all images decoded."""
    return {name: x[:] for name, x in steps.items()}


def expected(form, i):
    """Episode i with the arrays that a format has."""
    steps = truth(i)
    if form == "minari":  # no action at the last step
        steps["action"][-1] = 0
        del steps["time"], steps["language"]
    return steps


def assert_same(found, steps):
    assert found.keys() - {"model/deter"} == steps.keys()
    for name, x in steps.items():
        np.testing.assert_allclose(found[name], x, err_msg=name) if x.dtype.kind == (
            "f"
        ) else np.testing.assert_array_equal(found[name], x, err_msg=name)
