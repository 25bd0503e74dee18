"""Small LeRobot data sets with chosen time stamps, and videos whose pixels say their number."""

import json
import os
from fractions import Fraction

import av
import numpy as np
import pyarrow
from pyarrow import parquet

KEY = "observation.images.top"
TICKS = {"mp4": 90_000, "mkv": 1000, "avi": 10}  # per second
CODECS = {"avi": ("ffv1", 10)}  # and frames per second
VIDEO_V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}."
VIDEO_V2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}."
DATA_V3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_V2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
PLACE = {"chunk_index": 0, "file_index": 0}


def picture(number, height, width):
    """The frame of a number, uint8 [height, width, 3]."""
    return np.full((height, width, 3), (number, 255 - number, number % 7), np.uint8)


def numbers_in(pictures):
    """The numbers of pictures [n, H, W, 3]; fails unless every pixel agrees."""
    found = pictures[:, 0, 0, 0].astype(int)
    for number, image in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(image, picture(number, *image.shape[:2]))
    return found


def write_numbers(path, times, *, height=16, width=16, gop=12, start=0.0):
    """A lossless video with B-frames; frame i is shown from start + times[i] seconds on.

    Returns the times as stored, from the first frame.
    """
    suffix = str(path).rpartition(".")[2]
    ticks = TICKS[suffix]
    stamps = np.rint((np.asarray(times) + start) * ticks).astype(int)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(*CODECS.get(suffix, ("libx264rgb", 30)))
        stream.height, stream.width = height, width
        stream.pix_fmt = "bgr0" if suffix == "avi" else "rgb24"
        stream.options = (
            {"qp": "0", "g": str(gop), "bf": "2"} if suffix != "avi" else {}
        )
        stream.codec_context.time_base = Fraction(1, ticks)
        for number, stamp in enumerate(stamps.tolist()):
            frame = av.VideoFrame.from_ndarray(
                picture(number, height, width), format="rgb24"
            )
            frame.pts, frame.time_base = stamp, Fraction(1, ticks)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return (stamps - stamps[0]) / ticks


def write_set(folder, video, episodes, *, fps, old=False, kind=np.float32):
    """A data set of version 3.0, or 2.1 if `old`, whose camera shows one video.

    episodes: (stamps, from_timestamp, to_timestamp) each. The state of a step is its
    episode and its number. kind: type of the stamps in the file. Returns the folder's name.
    """
    suffix = str(video).rpartition(".")[2]
    rows, places = [], []
    for number, (stamps, begin, end) in enumerate(episodes):
        part = [
            {
                "observation.state": [float(number), float(step)],
                "action": [float(step)],
                "timestamp": float(kind(stamp)),
                "episode_index": number,
                "task_index": 0,
            }
            for step, stamp in enumerate(stamps)
        ]
        rows.append(part)
        row = {"episode_index": number, "length": len(stamps)}
        where = {f"data/{k}": x for k, x in PLACE.items()}
        where |= {f"videos/{KEY}/{k}": x for k, x in PLACE.items()}
        where |= {f"videos/{KEY}/from_timestamp": begin}
        where |= {f"videos/{KEY}/to_timestamp": end}
        places.append(row if old else row | where)
    number = {"dtype": "float32", "shape": [1], "names": None}
    info = {
        "codebase_version": "v2.1" if old else "v3.0",
        "fps": fps,
        "data_path": DATA_V2 if old else DATA_V3,
        "video_path": (VIDEO_V2 if old else VIDEO_V3) + suffix,
        "chunks_size": 1000,
        "features": {
            KEY: {"dtype": "video", "shape": [16, 16, 3]},
            "observation.state": number | {"shape": [2]},
            "action": number,
            "timestamp": number,
            "episode_index": number,
            "task_index": number,
        },
    }
    files = rows if old else [[row for part in rows for row in part]]
    for k, part in enumerate(files):
        given = {"video_key": KEY, "episode_chunk": 0, "episode_index": k, **PLACE}
        for name in (info["data_path"], info["video_path"]):
            (folder / name.format(**given)).parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.Table.from_pylist(part)
        parquet.write_table(table, folder / info["data_path"].format(**given))
        os.link(video, folder / info["video_path"].format(**given))
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    if old:
        lines = [json.dumps(place) for place in places]
        (folder / "meta/episodes.jsonl").write_text("\n".join(lines))
        task = json.dumps({"task_index": 0, "task": "push"})
        (folder / "meta/tasks.jsonl").write_text(task)
    else:
        table = pyarrow.Table.from_pylist(places)
        parquet.write_table(table, folder / "meta/episodes/chunk-000/file-000.parquet")
        tasks = pyarrow.table({"task_index": [0], "__index_level_0__": ["push"]})
        parquet.write_table(tasks, folder / "meta/tasks.parquet")
    return str(folder)
