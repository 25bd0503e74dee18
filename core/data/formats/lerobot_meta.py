"""The folder meta/ of a LeRobot data set: features, instructions, and places of episodes.

Version 3: meta/episodes/*.parquet, meta/tasks.parquet; several episodes share a file, and a
row of meta/episodes has the file and the seconds of an episode in it. Version 2:
meta/episodes.jsonl, meta/tasks.jsonl; each episode has files of its own.
"""

import itertools
import json
import math
import pathlib

from core.base.files import read_json
from core.base.places import expand_home
from core.base.text import one_line
from core.base.unreadable import explain_file, known_damage
from core.data.decoding.nearest_frames import EDGE

INFO = "meta/info.json"
VERSIONS = ("v2.", "v3.")
TASK, NUMBER = "task", "task_index"


def read_info(folder: str) -> dict:
    """meta/info.json. Raises ValueError if it is damaged or of another version."""
    path = expand_home(folder) / INFO
    if damage := known_damage(path):
        raise ValueError(f"{path} {damage}")
    try:
        info = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; it is cut or damaged: download it again") from None
    version = str(info.get("codebase_version"))
    if not version.startswith(VERSIONS):
        raise ValueError(
            f"{folder} has LeRobot version {version}; expected {' or '.join(VERSIONS)}x: "
            "convert it with LeRobot's own scripts"
        )
    if missing := [x for x in ("fps", "features", "data_path") if not info.get(x)]:
        raise ValueError(f"{path} has no {missing[0]!r}; download the data set again")
    if not (isinstance(info["fps"], int | float) and 0 < info["fps"] < math.inf):
        raise ValueError(f"{path} has fps {info['fps']}; expected a positive number")
    for name, feature in info["features"].items():
        if not (isinstance(feature, dict) and isinstance(feature.get("dtype"), str)):
            raise ValueError(f"{path}: the feature {name!r} has no dtype")
    return info


def is_old(info: dict) -> bool:
    """Whether each episode has files of its own (version 2)."""
    return str(info["codebase_version"]).startswith("v2.")


def read_tasks(root: pathlib.Path, info: dict) -> dict[int, str]:
    """Instructions by number; empty if the data set has no such file. Raises ValueError."""
    path = root / ("meta/tasks.jsonl" if is_old(info) else "meta/tasks.parquet")
    if not path.exists() and not path.is_symlink():
        return {}
    if is_old(info):
        rows = read_lines(path)
        return {row[NUMBER]: row[TASK] for row in rows if NUMBER in row and TASK in row}
    table = read_table(path)
    # The words may be in the index of pandas, which has a name of its own.
    others = [name for name in table.column_names if name != NUMBER]
    words = TASK if TASK in others else others[0] if len(others) == 1 else None
    if NUMBER not in table.column_names or words is None:
        raise ValueError(
            f"{path} has the columns {', '.join(table.column_names)}; expected {NUMBER} "
            f"and {TASK}, the words"
        )
    numbers, texts = table[NUMBER].to_pylist(), table[words].to_pylist()
    return dict(zip(numbers, map(str, texts), strict=True))


def read_episodes(root: pathlib.Path, info: dict, cameras) -> tuple[dict, ...]:
    """Number, length, and place in the files of each episode, by number.

    cameras: features that are videos; `separate` adds the places of version 3. Raises
    ValueError if there are none, one is listed twice, or a place is missing.
    """
    if is_old(info):
        path = root / "meta/episodes.jsonl"
        rows = [
            {k: row.get(k) for k in ("episode_index", "length")}
            for row in read_lines(path)
        ]
    else:
        rows = [
            row
            for path in sorted(root.glob("meta/episodes/*/*.parquet"))
            for row in read_places(path, cameras)
        ]
    numbers = [row["episode_index"] for row in rows]
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{root}/meta/episodes has a row without episode_index")
    if not rows:
        raise ValueError(
            f"{root} has no episodes in meta/episodes: it was not downloaded whole, or its "
            "recording was not finished (finalize() of LeRobot)"
        )
    rows.sort(key=lambda row: row["episode_index"])
    for one, other in itertools.pairwise(rows):
        if one["episode_index"] == other["episode_index"]:
            raise ValueError(
                f"{root} lists episode {one['episode_index']} twice in meta/episodes"
            )
    if not is_old(info):
        for camera in cameras:
            separate(rows, f"videos/{camera}", info["fps"])
    return tuple(rows)


def read_places(path, cameras) -> list[dict]:
    """The rows of a file of meta/episodes; columns of other subjects are left out."""
    places = {"data": ("chunk_index", "file_index")}
    times = ("from_timestamp", "to_timestamp")
    places |= {f"videos/{camera}": (*places["data"], *times) for camera in cameras}
    needed = [f"{place}/{x}" for place, names in places.items() for x in names]
    needed += ["episode_index", "length"]
    table = read_table(path)
    if missing := [name for name in needed if name not in table.column_names]:
        raise ValueError(
            f"{path} has no column {missing[0]!r}, though {INFO} lists the feature; "
            f"remove it from {INFO}, or download meta again"
        )
    return table.select(needed).to_pylist()


def separate(rows: list[dict], place: str, fps: float):
    """Add to each row the seconds `first` and `last` of the episode in its video.

    They are from_timestamp and to_timestamp, less what another episode of the same video
    claims as well: such frames cannot be told apart. An episode claims the time that its
    length takes at `fps`. If only one of two episodes lies where the lengths of those before
    it place it, the frames are its own.

    "packed" is (begin of the episode, end of the video) in seconds if the episodes filled
    the video without gaps.
    """
    files: dict[tuple, list[dict]] = {}
    for row in rows:
        times = [row[f"{place}/{x}"] for x in ("from_timestamp", "to_timestamp")]
        row[f"{place}/first"], row[f"{place}/last"] = times
        row[f"{place}/packed"] = None
        if all(time is not None and math.isfinite(time) for time in times):
            file = row[f"{place}/chunk_index"], row[f"{place}/file_index"]
            files.setdefault(file, []).append(row)
    for shared in files.values():
        shared.sort(key=lambda row: row[f"{place}/from_timestamp"])
        steps = [0, *itertools.accumulate(row["length"] for row in shared)]
        for row, before in zip(shared, steps, strict=False):
            row[f"{place}/packed"] = before / fps, steps[-1] / fps
        for k, row in enumerate(shared):
            for other in shared[k + 1 :]:
                if not part_overlap(row, other, place, fps):
                    break


def part_overlap(row: dict, other: dict, place: str, fps: float) -> bool:
    """Take frames that two episodes claim from one or both of them: `separate`.

    `row` begins first. Returns whether it reaches the other one.
    """
    begin = other[f"{place}/from_timestamp"]
    end, other_end = (
        min(
            x[f"{place}/to_timestamp"],
            x[f"{place}/from_timestamp"] + x["length"] / fps,
        )
        for x in (row, other)
    )
    if other_end <= begin:
        return True  # it claims nothing
    overlap = end > begin + EDGE / fps
    ours, theirs = (
        abs(x[f"{place}/from_timestamp"] - x[f"{place}/packed"][0]) < 0.5 / fps
        for x in (row, other)
    )
    if not overlap or theirs or not ours:
        row[f"{place}/last"] = min(row[f"{place}/last"], begin)
    if overlap and (ours or not theirs):
        other[f"{place}/first"] = max(other[f"{place}/first"], end)
    return overlap


def read_table(path, **options):
    """A Parquet file as a pyarrow.Table. Raises ValueError, with path and remedy."""
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path, **options)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(explain_file(path, one_line(error))) from None


def read_lines(path: pathlib.Path) -> list[dict]:
    """The rows of a JSON-lines file. Raises ValueError, with path and remedy."""
    if damage := known_damage(path):
        raise ValueError(f"{path} {damage}")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError:
            raise ValueError(
                f"{path} line {number} is no valid JSON: it is cut or damaged; download "
                "it again"
            ) from None
    return rows
