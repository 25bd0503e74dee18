"""Opens data sets by name, the value of data.source.

FOLDER or LIST             videos: a folder, or a text, CSV or Parquet file of paths
images:FOLDER or LIST      images, as clips without motion
FOLDER                     a data set of tensorflow-datasets, or of launch.prepare
tfds:NAME/CONFIG:VERSION   one in TFDS_DATA_DIR; CONFIG and VERSION are optional
camera:RECORDINGS          video of the first camera of trajectories
camera:RECORDINGS#CAMERA   of another camera
FOLDER                     trajectories: a replay, launch.prepare, RLDS, LeRobot, Minari
FILE.h5, FOLDER.lance      trajectories: tables of steps, as stable-worldmodel writes them
atari:GAME:EPISODES        trajectories: games played while they are read; slow, to prepare
two_rooms:EPISODES:SIZE    trajectories: the embedded two rooms; both numbers are optional
pushing:EPISODES:SIZE      trajectories: the embedded pushing task; both numbers are optional
arm:EPISODES:SIZE          trajectories: the embedded arm; both numbers are optional
dmc:TASK:EPISODES:SIZE     trajectories: tasks of dm_control and gymnasium, acted in at random
gym:TASK:EPISODES:SIZE     while they are read; both numbers are optional; slow, to prepare
world                      the embedded world
0.7*NAME + 0.3*NAME        a mixture, drawn from by weight
"""

import re
from collections.abc import Callable

from core.base.places import expand_home
from core.data.arm.episodes import ARM
from core.data.clips import View
from core.data.episodes.action_parts import layout_of, text_of
from core.data.episodes.cameras import Cameras
from core.data.episodes.scripted import names_task, open_task
from core.data.episodes.trajectories import (
    EpisodeWindows,
    RandomWindows,
    Recordings,
    UncutWindows,
    split_recordings,
)
from core.data.files import file_lists
from core.data.formats.chunks import ChunkFiles, ChunkWindows, chunks_in
from core.data.formats.lerobot import LeRobot, is_lerobot
from core.data.formats.minari import Minari, is_minari
from core.data.formats.prepared import PreparedPieces
from core.data.formats.rlds import Rlds
from core.data.formats.step_tables import StepTable, is_step_table
from core.data.games.atari import is_atari, open_atari
from core.data.mixture import Mixture
from core.data.pushing.episodes import PUSHING
from core.data.records import Records
from core.data.rooms.episodes import TWO_ROOMS
from core.data.simulated.episodes import open_simulated
from core.data.simulated.simulator import is_task
from core.data.tfds import (
    Shards,
    find_dataset,
    is_prepared,
    open_builder,
    step_features,
)
from core.data.tfds_clips import ShardClips
from core.data.video_folder import VideoFolder

WORLD, IMAGES = "world", "images:"
TASKS = (TWO_ROOMS, PUSHING, ARM)  # embedded, with scripted episodes
HOME = re.compile("(images:|camera:|)(.*)", re.DOTALL)
TERM = re.compile(r"(?:(?P<weight>[\d.]+)\s*\*\s*)?(?P<name>\S.*)")


def mixture_terms(text: str) -> list[tuple[float, str]]:
    """(weight, name) of each data set in a name. Spaces around "+" separate them.

    Raises ValueError if the text is empty or a weight is not a number.
    """
    found = []
    for part in re.split(r"\s\+\s", text.strip()):
        match = TERM.fullmatch(part.strip())
        try:
            weight = float(match["weight"] or 1)
        except (TypeError, ValueError):
            raise ValueError(
                f"{text!r} is not a valid mixture; expected 0.7*NAME + 0.3*NAME"
            ) from None
        found.append((weight, with_home(match["name"])))
    return found


def with_home(name: str) -> str:
    """A name with `~` in its path expanded; "images:" and "camera:" stay before it."""
    kind, path = HOME.fullmatch(name).groups()
    return kind + str(expand_home(path)) if path.startswith("~") else name


def open_mixture(text: str, open_one: Callable) -> Records:
    """Records of a name; a Mixture if it names several. open_one: name -> records."""
    weights, names = zip(*mixture_terms(text), strict=True)
    parts = tuple(open_one(name) for name in names)
    return Mixture(parts, weights) if len(parts) > 1 else parts[0]


def videos(
    text: str, split: str, view: View, world: Callable, frame_tolerance: float = 0.5
) -> Records:
    """Records of clips: {"video": uint8 as `view` says, and "label" where there are labels}.

    text: a name as in the first lines of this file. split: "train", "validation" or "" for
    all; folders of files have no splits and give all files. world: () -> records of the name
    "world". frame_tolerance: as in `recordings`. Raises ValueError if a data set is missing
    or does not hold videos.
    """

    def open_one(name):
        if name == WORLD:
            return world()
        if name.startswith(IMAGES):
            return VideoFolder(name.removeprefix(IMAGES), view, stills=True)
        if name.startswith("camera:"):
            name, _, camera = name.removeprefix("camera:").partition("#")
            known = recordings(name, split, frame_tolerance)
            return Cameras(known, view, camera)
        if name.startswith("tfds:") or is_prepared(name):
            return ShardClips(open_shards(name, split), view)
        return VideoFolder(name, view)

    return open_mixture(text, open_one)


def holds_images(name: str) -> bool:
    """Whether a name without weight stands for images, not for videos."""
    if name.startswith("tfds:") or is_prepared(name):
        features = open_shards(name, "").features
        return "image" in features and "video" not in features
    return name.startswith(IMAGES)


def trajectories(
    text: str,
    split: str,
    *,
    steps,
    apart,
    world: Callable,
    frame_tolerance: float = 0.5,
    cross_episodes: bool = True,
) -> Records:
    """Records of windows of trajectories: arrays [steps, ...] as in episodes/steps.py.

    text: a name as in the first lines of this file. split: "train" or "validation".
    apart: least number of validation steps of a replay. world: () -> records of the name
    "world". frame_tolerance: as in `recordings`. cross_episodes: whether a window may go on
    in the next episode. Raises ValueError if a data set is missing, does not hold
    trajectories, or has other units than the rest of a mixture.
    """
    make_windows = RandomWindows if cross_episodes else EpisodeWindows

    def open_one(name):
        if name == WORLD:
            return world()
        if chunks_in(name):
            windows = ChunkWindows(str(expand_home(name)), steps, split, apart)
            return windows if cross_episodes else UncutWindows(windows)
        return make_windows(recordings(name, split, frame_tolerance), steps)

    found = open_mixture(text, open_one)
    check_alike(found)
    return found


def check_alike(records: Records):
    """Raise ValueError if parts of a mixture have an array in different units, or other
    actions: discrete ones, say, where the rest has reals.
    """
    known, actions = {}, None
    for part in records.parts if isinstance(records, Mixture) else ():
        about = getattr(part, "about", {})
        if parts := about.get("action"):
            layout = layout_of(parts)
            other, where = actions = actions or (layout, part)
            if layout != other:
                raise ValueError(
                    f"actions are {text_of(other)} in {where} but {text_of(layout)} in "
                    f"{part}; a mixture needs the same"
                )
        for name, unit in about.get("units", {}).items():
            other, where = known.setdefault(name, (unit, part))
            if other != unit:
                raise ValueError(
                    f"{name} is in {other} in {where} but in {unit} in {part}; a mixture "
                    "needs one unit"
                )


def is_trajectories(name: str) -> bool:
    """Whether a name stands for trajectories; False if there is no such data set."""
    name = with_home(name)
    if name.startswith("tfds:") or is_prepared(name):
        return "steps" in open_shards(name, "").features
    known = is_atari, is_task, is_lerobot, is_minari, is_step_table
    if any(is_one(name) for is_one in known):
        return True
    if any(names_task(task, name) for task in TASKS):
        return True
    return bool(chunks_in(name))


def recordings(name: str, split: str = "", frame_tolerance: float = 0.5) -> Recordings:
    """Recordings (core/data/episodes/trajectories.py) of a name without weights.

    split: "train", "validation" or "" for all. frame_tolerance: how far the frame of a step
    may be from its time stamp in LeRobot, in frame intervals. Raises ValueError if there are
    none.
    """
    name = with_home(name)
    if name.startswith("tfds:") or is_prepared(name):
        found = open_shards(name, split)
        if "steps" not in found.features:
            raise ValueError(
                f"{name} has the features {', '.join(found.features)}; expected 'steps'"
            )
        info = open_builder(found.place).info
        if step_features(info.features):
            return Rlds(found)
        if "about" in (info.metadata or {}):
            return PreparedPieces(found)
        raise ValueError(
            f"{name} has 'steps' of {type(info.features['steps']).__name__}; expected a "
            "Dataset, as RLDS has it, or a data set of launch.prepare"
        )
    if is_atari(name):
        return split_recordings(open_atari(name), split)
    if is_task(name):
        return split_recordings(open_simulated(name), split)
    for task in TASKS:
        if names_task(task, name):
            return split_recordings(open_task(task, name), split)
    if is_lerobot(name):
        return split_recordings(LeRobot(name, frame_tolerance), split)
    if is_minari(name):
        return split_recordings(Minari(name), split)
    if is_step_table(name):
        return split_recordings(StepTable(name), split)
    if chunks_in(name):
        return split_recordings(ChunkFiles(str(expand_home(name))), split)
    if "://" in name:
        raise ValueError(
            f"{name} is an address; expected a folder: mount the bucket, for example with "
            "gcsfuse or mount-s3, and name the folder there"
        )
    place = expand_home(name)
    hint = file_lists.nearest_paths(place) if not place.exists() else ""
    raise ValueError(
        f"{name} holds no trajectories{hint}; expected a replay's folder, a data set of "
        "launch.prepare, RLDS, LeRobot or Minari, an HDF5 or Lance table, tfds:NAME, "
        "two_rooms, pushing, arm, dmc:TASK, gym:TASK, or world"
    )


def open_shards(name: str, split: str) -> Shards:
    """The examples of "tfds:NAME" or of a folder."""
    if name.startswith("tfds:"):
        name = str(find_dataset(name.removeprefix("tfds:")))
    return Shards(name, split)
