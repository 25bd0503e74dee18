"""Videos in a folder, or named by a list file, as records of random clips."""

import dataclasses
import difflib
import os
import re
from pathlib import Path

import numpy as np

from core.data import clips
from core.data.video import SUFFIXES

LINE = re.compile(r"(?P<path>.*?)(?:(?:\s*,\s*|\s+)(?P<label>-?\d+))?")
EXPECTED = (
    f"a folder with {', '.join(SUFFIXES)} files, "
    "or a text file that names one video per line"
)


@dataclasses.dataclass(frozen=True)
class VideoFolder:
    """Clips of `frames` frames at `fps` a second, cropped and scaled to `size` pixels.

    folder: a folder, searched with everything below it, or a text or CSV file with one
      path per line, relative to that file, and optionally a whole-number label after a
      comma or space; then every sample has a "label".
    scale, aspect, flip: share of the area and width / height of the random crop, and
      whether half of the clips are mirrored.
    view: "random" to train; "center" to evaluate: middle of the video, central square.
    """

    folder: str
    frames: int = 16
    fps: float = 4.0
    size: int = 224
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.75, 1.35)
    flip: bool = True
    view: str = "random"
    root: str = dataclasses.field(init=False, repr=False)
    paths: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    labels: tuple[int, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        self._check()
        place = Path(self.folder).expanduser()
        if not place.exists():
            raise ValueError(
                f"{self.folder} does not exist{_near(place)}; expected {EXPECTED}"
            )
        paths, labels = _search(place) if place.is_dir() else _read_list(place)
        if not paths:
            raise ValueError(f"{self.folder} has no videos; expected {EXPECTED}")
        root = place if place.is_dir() else place.parent
        if not any((root / path).exists() for path in paths[:: len(paths) // 100 + 1]):
            raise ValueError(
                f"{self.folder} names {paths[0]}, but {root / paths[0]} does not exist"
                f"{_near(root / paths[0])}; paths are relative to the list file"
            )
        object.__setattr__(self, "root", str(root))
        object.__setattr__(self, "paths", tuple(paths))
        object.__setattr__(self, "labels", tuple(labels))

    def _check(self):
        for field in ("frames", "fps", "size"):
            value = getattr(self, field)
            if value <= 0:
                raise ValueError(f"{field} is {value}; it must be positive")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; expected 0 < low <= high <= 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect is {self.aspect}; expected 0 < low <= high")
        if self.view not in ("random", "center"):
            raise ValueError(f"view is {self.view!r}; expected 'random' or 'center'")

    def __str__(self):
        return str(self.folder)

    def __len__(self):
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def load(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """{"video": uint8 [T, H, W, 3]}, and "label": int32 where the list has them."""
        path = os.path.join(self.root, self.paths[index])
        clip = {"frames": self.frames, "fps": self.fps, "size": self.size}
        if self.view == "random":
            crop = {"scale": self.scale, "aspect": self.aspect, "flip": self.flip}
            video = clips.random_clip(path, rng, **clip, **crop)
        else:
            video = clips.center_clip(path, **clip)
        label = {"label": np.int32(self.labels[index])} if self.labels else {}
        return {"video": video, **label}


def _search(folder):
    """The videos below a folder in sorted order, but hidden ones, and no labels."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.relpath(os.path.join(place, name), folder)
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found), []


def _fail(error):
    raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error


def _read_list(file):
    """The paths and the labels that a list file gives, one per line."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text; expected {EXPECTED}") from None
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.strip())
        path = match["path"].strip("\"'")
        if not path.lower().endswith(SUFFIXES):
            raise ValueError(
                f"{file} line {number} is {line.strip()!r}; expected the path of a "
                f"video ({', '.join(SUFFIXES)}), then optionally a whole-number label"
            )
        paths.append(path)
        labels += [int(match["label"])] if match["label"] else []
    if len(labels) not in (0, len(paths)):
        raise ValueError(
            f"{file} labels {len(labels)} of its {len(paths)} videos; "
            "expected all or none"
        )
    return paths, labels


def _near(path):
    """What a missing path may have meant: names like the first part that is missing."""
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    close = difflib.get_close_matches(path.name, os.listdir(parent))
    names = " or ".join(str(parent / name) for name in close)
    return f" (did you mean {names}?)" if names else ""
