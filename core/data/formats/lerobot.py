"""Reads data sets of LeRobot 3: steps in Parquet, images in videos.

meta/info.json has features, rate and paths; meta/episodes the files of each episode and its
place in them; meta/tasks.parquet the instructions.
"""

import dataclasses
import json
import pathlib

import numpy as np

from core.base.text import one_line
from core.data.formats.lazy_images import image_files, video_frames
from core.data.records import BadSample
from core.data.steps import LazyImages, episode_flags, image_or_float, shift_rewards

INFO = "meta/info.json"
VERSION = "v3."
# Columns about the row itself.
INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index", "timestamp")


def is_lerobot(place) -> bool:
    """Whether a folder is a data set of LeRobot."""
    return (pathlib.Path(place).expanduser() / INFO).is_file()


@dataclasses.dataclass(frozen=True, eq=False)
class LeRobot:
    """The episodes of a folder as recordings (core/data/trajectories.py).

    info: meta/info.json. tasks: instructions by number. episodes: rows of meta/episodes.
    Raises ValueError if the version is not 3 or there are no episodes.
    """

    folder: str
    info: dict = dataclasses.field(init=False, repr=False)
    tasks: dict = dataclasses.field(init=False, repr=False)
    episodes: tuple = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        root = pathlib.Path(self.folder).expanduser()
        info = json.loads((root / INFO).read_text())
        version = str(info.get("codebase_version"))
        if not version.startswith(VERSION):
            raise ValueError(
                f"{self.folder} has LeRobot version {version}; expected {VERSION}x: convert "
                "it with LeRobot's convert_dataset_v21_to_v30"
            )
        values = {
            "info": info,
            "tasks": read_tasks(root),
            "episodes": read_episodes(root),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if not self.episodes:
            raise ValueError(f"{self.folder} has no episodes")

    def __str__(self):
        return self.folder

    def __len__(self):
        return len(self.episodes)

    def name(self, index):
        return f"{self.folder}: episode {self.episodes[index]['episode_index']}"

    @property
    def about(self):
        names = {
            array_name(k): x.get("names") for k, x in self.info["features"].items()
        }
        names = {k: flat_names(x) for k, x in names.items() if x}
        return {"names": names, "rate": self.info["fps"]}

    def load(self, index):
        """The steps of an episode; camera images are LazyImages."""
        where, features = self.episodes[index], self.info["features"]
        rows = self.rows(where)
        count = len(rows["timestamp"])
        found = {"time": np.asarray(rows["timestamp"], np.float64)}
        for name, kind in features.items():
            if name in INDEX_COLUMNS or name in ("next.reward", "next.done"):
                continue
            if kind["dtype"] == "video":
                found[array_name(name)] = self.camera_frames(where, name, found["time"])
            elif kind["dtype"] == "image":
                found[array_name(name)] = image_files(
                    [cell["bytes"] for cell in rows[name]]
                )
            elif kind["dtype"] != "string":
                found[array_name(name)] = image_or_float(rows[name])
        if "action" not in found:
            raise BadSample("has no 'action'")
        found["action"] = found["action"].reshape(count, -1)
        found["reward"] = shift_rewards(rows.get("next.reward", np.zeros(count)))
        if self.tasks:
            words = [self.tasks.get(task, "") for task in rows["task_index"]]
            found["language"] = np.array(words)
        over = bool(rows["next.done"][-1]) if "next.done" in rows else False
        return found | episode_flags(count, terminal=over)

    def rows(self, where) -> dict:
        """The columns of an episode as lists by name. Raises BadSample."""
        import pyarrow
        from pyarrow import parquet

        path = self.path("data_path", where, "data")
        number = where["episode_index"]
        try:
            chosen = [("episode_index", "==", number)]
            table = parquet.read_table(path, filters=chosen)
        except (pyarrow.ArrowException, OSError) as error:
            raise BadSample(f"{path} cannot be read: {one_line(error)}") from None
        if len(table) != where["length"] or not len(table):
            raise BadSample(
                f"has {len(table)} rows in {path.name}; expected {where['length']}"
            )
        return {k: table[k].to_pylist() for k in table.column_names}

    def camera_frames(self, where, key, time) -> LazyImages:
        """The images of a camera at `time`, in seconds since the episode began."""
        path = self.path("video_path", where, f"videos/{key}", video_key=key)
        # A quarter of a frame later, so that rounding cannot give the frame before.
        times = where[f"videos/{key}/from_timestamp"] + time + 0.25 / self.info["fps"]
        return video_frames(path, times)

    def path(self, field, where, kind, **more) -> pathlib.Path:
        """The path of an episode's file, by the template info[field]."""
        place = {k: where[f"{kind}/{k}"] for k in ("chunk_index", "file_index")}
        path = pathlib.PurePath(self.info[field].format(**place, **more))
        if path.is_absolute() or ".." in path.parts:
            raise BadSample(f"{field} is outside of the data set's folder: {path}")
        return pathlib.Path(self.folder).expanduser() / path


def read_tasks(root) -> dict[int, str]:
    """Instructions by number; the text is in the index column of pandas."""
    from pyarrow import parquet

    if not (root / "meta/tasks.parquet").exists():
        return {}
    table = parquet.read_table(root / "meta/tasks.parquet")
    [words] = [name for name in table.column_names if name != "task_index"]
    return dict(
        zip(table["task_index"].to_pylist(), table[words].to_pylist(), strict=True)
    )


def read_episodes(root) -> tuple[dict, ...]:
    """Number, length, and place in the files of each episode, by number."""
    from pyarrow import parquet

    rows = []
    for path in sorted(root.glob("meta/episodes/*/*.parquet")):
        names = parquet.read_schema(path).names
        kept = [x for x in names if x.startswith(("data/", "videos/"))]
        kept += ["episode_index", "length"]
        rows += parquet.read_table(path, columns=kept).to_pylist()
    return tuple(sorted(rows, key=lambda row: row["episode_index"]))


def array_name(name: str) -> str:
    """observation.images.top -> images_top, next.success -> log/next_success."""
    plain = name.removeprefix("observation.").replace(".", "_")
    inside = name.startswith("observation.") or name == "action"
    return plain if inside else f"log/{plain}"


def flat_names(names) -> list[str]:
    """Names of numbers as one list; they may be nested in groups."""
    if isinstance(names, dict):
        return [x for group in names.values() for x in flat_names(group)]
    return [str(x) for x in names] if isinstance(names, list) else [str(names)]
