"""What the name of a data set means.

videos           a folder of videos, or a list of them: text, CSV or Parquet
images:photos    the same of images, clips in which nothing moves
prepared         the folder of a data set of tensorflow-datasets
tfds:name/config:version   one in TFDS_DATA_DIR; config and version may be left out
world            the embedded world
0.7*videos + 0.3*images:photos   several, drawn from by weight
"""

import re
from collections.abc import Callable

from core.data.clips import View
from core.data.folder import VideoFolder
from core.data.mixture import Mixture
from core.data.records import Records
from core.data.shards import ShardClips
from core.data.tfds import Shards, is_prepared, locate
from core.data.trajectories import Windows

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

    split: "train", or "held" for what training never sees, where there is such a part.
    world: () -> what the name "world" stands for.
    """

    def one(name):
        if name == WORLD:
            return world()
        if name.startswith("images:"):
            return VideoFolder(name.removeprefix("images:"), view, stills=True)
        if name.startswith("tfds:"):
            name = str(locate(name.removeprefix("tfds:")))
        return (
            ShardClips(Shards(name, split), view)
            if is_prepared(name)
            else VideoFolder(name, view)
        )

    return several(text, one)


def trajectories(text: str, split: str, *, steps, apart, world: Callable) -> Records:
    """Records of windows of `steps` steps, as a name says; "held" ones lie apart.

    world: () -> what the name "world" stands for.
    """

    def one(name):
        return world() if name == WORLD else Windows(name, steps, split, apart)

    return several(text, one)
