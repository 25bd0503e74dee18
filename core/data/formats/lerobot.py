"""Reads data sets of LeRobot 2 and 3: steps in Parquet, images in videos or in Parquet.

meta/info.json has features, rate and paths; core/data/formats/lerobot_meta.py reads the rest
of meta/.
"""

import dataclasses
import pathlib

import numpy as np

from core.base.places import expand_home
from core.base.text import one_line
from core.data.decoding.nearest_frames import Stamps, float32_digits
from core.data.episodes.observed import read_observation
from core.data.episodes.step_names import check_distinct, log_name, observation_name
from core.data.episodes.steps import LazyImages, episode_flags, shift_rewards
from core.data.formats import lerobot_depth
from core.data.formats.lazy_images import (
    depth_files,
    depth_frames,
    has_deep_numbers,
    image_files,
    video_frames,
)
from core.data.formats.lerobot_meta import (
    INFO,
    is_old,
    read_episodes,
    read_info,
    read_table,
    read_tasks,
)
from core.data.records import BadSample

# Columns about the row itself.
INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index", "timestamp")
REWARD, DONE, TIME, TASK = "next.reward", "next.done", "timestamp", "task_index"


def is_lerobot(place) -> bool:
    """Whether a folder is a data set of LeRobot."""
    return (expand_home(place) / INFO).is_file()


@dataclasses.dataclass(frozen=True, eq=False)
class LeRobot:
    """The episodes of a folder as recordings (core/data/episodes/trajectories.py).

    frame_tolerance: how far the frame of a step may be from its time stamp, in intervals
    between frames, by the stated rate of the video, else of the data set. info:
    meta/info.json. tasks: instructions by number. episodes: their places. names: {feature:
    array of episodes/steps.py}. Raises ValueError if meta/ is damaged, two features would
    get one name, or there is no action.
    """

    folder: str
    frame_tolerance: float = 0.5
    info: dict = dataclasses.field(init=False, repr=False)
    tasks: dict = dataclasses.field(init=False, repr=False)
    episodes: tuple = dataclasses.field(init=False, repr=False)
    names: dict = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        if not self.frame_tolerance >= 0:
            raise ValueError(
                f"data.frame_tolerance is {self.frame_tolerance}; expected 0 or more"
            )
        root = expand_home(self.folder)
        info = read_info(self.folder)
        kinds = info["features"]
        cameras = [name for name, x in kinds.items() if x["dtype"] == "video"]
        values = {
            "info": info,
            "names": array_names(self.folder, kinds),
            "tasks": read_tasks(root, info),
            "episodes": read_episodes(root, info, cameras),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __str__(self):
        return self.folder

    def __len__(self):
        return len(self.episodes)

    def name(self, index):
        return f"{self.folder}: episode {self.episodes[index]['episode_index']}"

    @property
    def about(self):
        features = {ours: self.info["features"][k] for k, ours in self.names.items()}
        names = {
            k: flat_names(x["names"]) for k, x in features.items() if x.get("names")
        }
        units = {
            k: lerobot_depth.unit_of(x)
            for k, x in features.items()
            if lerobot_depth.is_depth(x) and lerobot_depth.unit_of(x)
        }
        return {"names": names, "units": units, "rate": self.info["fps"]}

    def load(self, index):
        """The steps of an episode; camera images are LazyImages."""
        where, features = self.episodes[index], self.info["features"]
        rows = self.rows(where)
        count = len(rows[TIME])
        time = np.asarray(rows[TIME], np.float64).reshape(count)
        if not np.isfinite(time).all():
            raise BadSample(
                f"{TIME!r} is not finite at step {np.isfinite(time).argmin()}"
            )
        found = {"time": time}
        for name, ours in self.names.items():
            if name == "action":
                continue
            if features[name]["dtype"] == "video":
                found[ours] = self.camera_frames(where, name, time)
            elif features[name]["dtype"] == "image":
                images = images_in_rows(name, rows[name], features[name])
                found[log_name(ours) if images.depth else ours] = images
            elif features[name]["dtype"] == "string":
                found[ours] = np.array([str(x) for x in rows[name]])
            else:
                x, is_map = read_observation(numbers(name, rows[name], features[name]))
                found[log_name(ours) if is_map else ours] = x
        action = numbers("action", rows["action"], features["action"])
        found["action"] = action.astype(np.float32).reshape(count, -1)
        rewards = np.asarray(rows.get(REWARD, np.zeros(count)), np.float32)
        found["reward"] = shift_rewards(rewards.reshape(count))
        if self.tasks:
            found["language"] = np.array([self.words(task) for task in rows[TASK]])
        over = bool(np.ravel(rows[DONE][-1])[0]) if DONE in rows else False
        return found | episode_flags(count, terminal=over)

    def words(self, task) -> str:
        """The instruction with a number. Raises BadSample."""
        if task not in self.tasks:
            raise BadSample(f"{TASK} is {task}, which is not in meta/tasks")
        return self.tasks[task]

    def rows(self, where) -> dict:
        """The columns of an episode as lists by name. Raises BadSample."""
        path = self.path("data_path", where, "data")
        number = where["episode_index"]
        try:
            table = read_table(path, filters=[("episode_index", "==", number)])
        except ValueError as error:
            raise BadSample(str(error)) from None
        features = self.info["features"]
        needed = [x for x in self.names if features[x]["dtype"] != "video"]
        for name in (*needed, TIME, *([TASK] if self.tasks else [])):
            if name not in table.column_names:
                raise BadSample(f"{path} has no column {name!r}, which {INFO} lists")
        if len(table) != where["length"] or not len(table):
            raise BadSample(
                f"has {len(table)} rows in {path.name}; expected {where['length']}"
            )
        wanted = [
            x for x in (*needed, TIME, TASK, REWARD, DONE) if x in table.column_names
        ]
        return {k: table[k].to_pylist() for k in dict.fromkeys(wanted)}

    def camera_frames(self, where, key, time) -> LazyImages:
        """The images of a camera at `time`, in seconds since the episode began.

        Raises BadSample if the time stamps lie outside of the episode's part of the video.
        """
        place, feature = f"videos/{key}", self.info["features"][key]
        path = self.path("video_path", where, place, video_key=key)
        begin, bounds = 0.0, {}
        if not is_old(self.info):
            begin = where[f"{place}/from_timestamp"]
            bounds = {x: where[f"{place}/{x}"] for x in ("first", "last", "packed")}
            if bounds["packed"] is None:
                raise BadSample(
                    f"has no from_timestamp and to_timestamp in the video of {key!r}"
                )
        stamps = Stamps(
            begin + time,
            begin=begin,
            interval=1 / (frame_rate(feature) or self.info["fps"]),
            tolerance=self.frame_tolerance,
            digits=float32_digits(time),
            file=str(path.relative_to(expand_home(self.folder))),
            **bounds,
        )
        if lerobot_depth.is_depth(feature):
            frames = depth_frames(path, stamps, lerobot_depth.converter(feature))
        else:
            frames = video_frames(path, stamps)
        # Raises BadSample unless there is a frame after all.
        for step in stamps.outside()[:1]:
            frames[step : step + 1]
        return frames

    def path(self, field, where, kind, **more) -> pathlib.Path:
        """The path of an episode's file, by the template info[field]."""
        if is_old(self.info):
            number = where["episode_index"]
            chunk = number // self.info.get("chunks_size", 1000)
            place = {"episode_chunk": chunk, "episode_index": number}
        else:
            place = {k: where[f"{kind}/{k}"] for k in ("chunk_index", "file_index")}
        path = pathlib.PurePath(self.info[field].format(**place, **more))
        if path.is_absolute() or ".." in path.parts:
            raise BadSample(f"{field} is outside of the data set's folder: {path}")
        return expand_home(self.folder) / path


def array_names(folder: str, features: dict) -> dict[str, str]:
    """{feature: array of episodes/steps.py}, without columns about the row and its reward.

    observation.images.top -> images_top, next.success -> log/next_success; depth and text ->
    log/NAME, since no network reads them. Raises ValueError.
    """
    if "action" not in features:
        raise ValueError(f"{folder} has no feature 'action' in {INFO}")
    names = {}
    for name, feature in features.items():
        if name in (*INDEX_COLUMNS, REWARD, DONE):
            continue
        plain = name.removeprefix("observation.")
        if name == "action":
            names[name] = name
        elif plain == name:
            names[name] = log_name(name)
        elif lerobot_depth.is_depth(feature) or feature["dtype"] == "string":
            names[name] = log_name(plain)
        else:
            names[name] = observation_name(plain)
    try:
        return check_distinct(names.items())
    except ValueError as error:
        raise ValueError(f"{folder} {error}") from None


def numbers(name: str, values, feature: dict) -> np.ndarray:
    """The numbers of a column, of the type that its feature states. Raises BadSample."""
    try:
        return np.asarray(values, feature["dtype"])
    except (TypeError, ValueError) as error:
        reason = f"{name!r} has values that are no {feature['dtype']}"
        raise BadSample(f"{reason}: {one_line(error)}") from None


def images_in_rows(name: str, cells, feature: dict) -> LazyImages:
    """Images in the cells of a Parquet column; depth keeps its numbers. Raises BadSample."""
    files = [(cell or {}).get("bytes") for cell in cells]
    if None in files:
        raise BadSample(
            f"{name!r} has no image in its cell at step {files.index(None)}"
        )
    deep = lerobot_depth.is_depth(feature) or has_deep_numbers(files[0])
    return (depth_files if deep else image_files)(files)


def frame_rate(feature: dict) -> float:
    """The stated frames per second of a feature's video; 0 if there is none."""
    rate = lerobot_depth.details(feature).get("fps")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else 0.0


def flat_names(names) -> list[str]:
    """Names of numbers as one list; they may be nested in groups."""
    if isinstance(names, dict):
        return [x for group in names.values() for x in flat_names(group)]
    return [str(x) for x in names] if isinstance(names, list) else [str(names)]
