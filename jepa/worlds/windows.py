"""Windows within episodes of trajectories, and their pictures, for world models on latents."""

from core.data import source_names
from core.data.bodies.world import World
from core.data.episodes.cameras import camera_names
from core.data.episodes.trajectories import WorldWindows
from core.data.loading.pipeline import STALL_S
from core.data.records import BadSample, Records

VALIDATION = 1 << 20  # added to the seed of the world of bodies for validation windows
PLACE = "log/position"  # true positions, for evaluation alone


def open_windows(
    split, *, steps, seed, source, size, level, bodies, fps, workers, max_bad_share,
    frame_tolerance=0.5, stall_s=STALL_S,
):  # fmt: skip
    """(records of windows, keywords of `make_source`), from the config's section `data`.

    Args:
      split: "train" or "validation", which are different episodes.
      steps: of a window, all in one episode.
      source: a name as in core/data/source_names.py.
      size: pixels per side of the source "world". level, bodies, fps: of it, too.
      frame_tolerance: of LeRobot, in frame intervals.

    Raises ValueError for a source that is missing or holds no trajectories.
    """

    def world():
        shift = VALIDATION * (split == "validation")
        look = {"size": size, "level": level, "bodies": bodies, "fps": fps}
        pushed = World(seed + shift, variant="pushed", frames=steps, **look)
        return WorldWindows(pushed)

    windows: Records = source_names.trajectories(
        source,
        split,
        steps=steps,
        apart=steps,
        world=world,
        frame_tolerance=frame_tolerance,
        cross_episodes=False,
    )
    pipeline = {"seed": seed, "workers": workers, "max_bad_share": max_bad_share}
    pipeline |= {"stall_s": stall_s, "shuffle": not isinstance(windows, WorldWindows)}
    return windows, pipeline


def picture_name(steps, wanted: str = "") -> str:
    """The name of the picture to use; raises BadSample if there is none of that name."""
    names = camera_names(steps)
    if wanted in names:
        return wanted
    if wanted or not names:
        known = f"expected one of {', '.join(names)}" if names else "it has no picture"
        raise BadSample(f"has no picture {wanted!r}; {known}" if wanted else known)
    return names[0]
