"""What the name of a data set means.

videos           a folder of videos, or a list of them: text, CSV or Parquet
images:photos    the same of images, clips in which nothing moves
prepared         the folder of a data set of tensorflow-datasets
tfds:name/config:version   one in TFDS_DATA_DIR; config and version may be left out
camera:robot     what the first camera of trajectories sees; camera:robot#wrist, another
trajectories     a replay's folder, a data set of launch.prepare, RLDS, LeRobot or Minari
world            the embedded world
0.7*videos + 0.3*images:photos   several, drawn from by weight
"""

import re
from collections.abc import Callable
from pathlib import Path

from core.data import file_lists
from core.data.cameras import Cameras
from core.data.clips import View
from core.data.formats.chunks import ChunkFiles, Windows, chunks_in
from core.data.formats.lerobot import LeRobot, is_lerobot
from core.data.formats.minari import Minari, is_minari
from core.data.formats.pieces import Pieces
from core.data.formats.rlds import Rlds
from core.data.mixture import Mixture
from core.data.records import Records
from core.data.tfds import Shards, builder, is_prepared, locate, steps_of
from core.data.tfds_clips import ShardClips
from core.data.trajectories import Recordings, Stretches, split_of
from core.data.video_folder import VideoFolder

WORLD = "world"
TERM = re.compile(r"(?:(?P<weight>[\d.]+)\s*\*\s*)?(?P<name>\S.*)")


def terms(text: str) -> list[tuple[float, str]]:
    """(weight, name) of each part of a name; the plus of a mixture has space around it."""
    found = []
    for part in re.split(r"\s\+\s", text.strip()):
        match = TERM.fullmatch(part.strip())
        try:
            weight = float(match["weight"] or 1)
        except (TypeError, ValueError):
            raise ValueError(
                f"{text!r} is no mixture of data sets; write 0.7*NAME + 0.3*NAME"
            ) from None
        found.append((weight, match["name"]))
    return found


def several(text: str, one: Callable) -> Records:
    """Records of a name, a mixture where it names several; one: name -> records."""
    weights, names = zip(*terms(text), strict=True)
    parts = tuple(one(name) for name in names)
    return Mixture(parts, weights) if len(parts) > 1 else parts[0]


def videos(text: str, split: str, view: View, world: Callable) -> Records:
    """Records of clips, as a name says.

    split: "train", or "validation" for what training never sees, where there is such a part.
    world: () -> what the name "world" stands for.
    """

    def one(name):
        if name == WORLD:
            return world()
        if name.startswith("images:"):
            return VideoFolder(name.removeprefix("images:"), view, stills=True)
        if name.startswith("camera:"):
            name, _, camera = name.removeprefix("camera:").partition("#")
            return Cameras(recordings(name, split), view, camera)
        if name.startswith("tfds:") or is_prepared(name):
            return ShardClips(shards(name, split), view)
        return VideoFolder(name, view)

    return several(text, one)


def trajectories(text: str, split: str, *, steps, apart, world: Callable) -> Records:
    """Records of windows of `steps` steps, as a name says; "validation" ones lie apart.

    world: () -> what the name "world" stands for.
    """

    def one(name):
        if name == WORLD:
            return world()
        if chunks_in(name):
            return Windows(name, steps, split, apart)
        return Stretches(recordings(name, split), steps)

    found = several(text, one)
    agree(found)
    return found


def agree(records: Records):
    """Refuse mixtures of what is told in different units."""
    known = {}
    for part in records.parts if isinstance(records, Mixture) else ():
        for name, unit in getattr(part, "about", {}).get("units", {}).items():
            other, where = known.setdefault(name, (unit, part))
            if other != unit:
                raise ValueError(
                    f"{name} is told in {other} by {where}, in {unit} by {part}; a "
                    "mixture needs one unit"
                )


def is_trajectories(name: str) -> bool:
    """Whether a name, if there is such a thing, stands for recordings of steps."""
    if name.startswith("tfds:") or is_prepared(name):
        return "steps" in shards(name, "").features
    return is_lerobot(name) or is_minari(name) or bool(chunks_in(name))


def recordings(name: str, split: str = "") -> Recordings:
    """Recordings of steps, as a name says; split as that of `Shards`."""
    if name.startswith("tfds:") or is_prepared(name):
        found = shards(name, split)
        if "steps" not in found.features:
            raise ValueError(
                f"{name} holds {', '.join(found.features)}; expected steps of trajectories"
            )
        rlds = steps_of(builder(found.place).info.features)
        return Rlds(found) if rlds else Pieces(found)
    for fits, kind in ((is_lerobot, LeRobot), (is_minari, Minari)):
        if fits(name):
            return split_of(kind(name), split)
    if chunks_in(name):
        return split_of(ChunkFiles(name), split)
    place = Path(name).expanduser()
    hint = file_lists.near(place) if not place.exists() else ""
    raise ValueError(
        f"{name} holds no trajectories{hint}; expected a replay's folder, a data set of "
        "launch.prepare, RLDS, LeRobot or Minari, tfds:NAME, or world"
    )


def shards(name: str, split: str) -> Shards:
    if name.startswith("tfds:"):
        name = str(locate(name.removeprefix("tfds:")))
    return Shards(name, split)
