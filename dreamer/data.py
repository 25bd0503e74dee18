"""Sources of offline pretraining: windows of trajectories, cut into consecutive pieces."""

import dataclasses

import numpy as np

from core.agents import recorded_actions
from core.agents.spaces import Space
from core.base.waiting import never
from core.data import source_names
from core.data.bodies.world import World
from core.data.episodes.steps import FLAGS, is_observation
from core.data.episodes.trajectories import WorldWindows
from core.data.loading.pipeline import STALL_S, make_source
from core.data.mixture import map_parts
from core.data.records import BadSample, Records, RecordsWrapper, explain

VALIDATION = 1 << 20  # added to the seed for validation clips


def make_world(split, *, seed, steps, size, level, bodies, fps) -> World:
    """The embedded world with an agent that pushes bodies.

    split: "train" or "validation", which have different seeds. steps: frames of a clip.
    Other arguments as in core/data/bodies/world.py.
    """
    look = {"size": size, "level": level, "bodies": bodies, "fps": fps}
    seed += VALIDATION * (split == "validation")
    return World(seed, variant="pushed", frames=steps, **look)


def make_records(
    split, *, source, steps, apart, seed, size, level, bodies, fps, frame_tolerance=0.5
):
    """Windows of `steps` steps of the data set `source` (core/data/source_names.py).

    split: "train", or "validation", which has at least `apart` steps. seed to fps: those of
    `make_world`, for the source "world". frame_tolerance: how far the frame of a LeRobot
    step may be from its time stamp, in frame intervals.
    """
    world = {"seed": seed, "size": size, "level": level, "bodies": bodies, "fps": fps}

    def pushed():
        return WorldWindows(make_world(split, steps=steps, **world))

    return source_names.trajectories(
        source,
        split,
        steps=steps,
        apart=apart,
        world=pushed,
        frame_tolerance=frame_tolerance,
    )


def spaces_of(records):
    """(observations, actions) {name: Space} of records, by the first that can be read.

    Actions are choices where the data set says so; where it says nothing, if the vectors of
    the first eight records are one-hot. Raises ValueError if none of these can be read.
    """
    items, why = [], ""
    for index in range(min(len(records), 8)):
        try:
            items.append(records.load(index))
        except Exception as error:  # noqa: BLE001, the pipeline reports them
            why = why or f"{records.name(index)} {explain(error)}"
            continue
        hot = recorded_actions.is_one_hot(items[-1]["action"], items[-1]["is_first"])
        if not hot:
            break
    if not items:
        raise ValueError(f"the first records of {records} cannot be read: {why}")
    spaces = {
        name: Space(x.shape[1:], "uint8" if x.dtype == np.uint8 else "float32")
        for name, x in items[0].items()
        if is_observation(name)
    }
    shape = items[0]["action"].shape[1:]
    parts = getattr(records, "about", {}).get("action")
    if parts is not None:
        return spaces, recorded_actions.spaces_of(parts)
    return spaces, {"action": Space((), "int32", shape[0]) if hot else Space(shape)}


def shaped(records: Records, spaces, action: int, also=()) -> Records:
    """Records whose samples have the arrays, shapes and types that a model takes.

    action: length of action vectors, A. also: names of further arrays to keep.
    """
    spaces = (*spaces, ("action", Space((action,))))
    return map_parts(lambda part: Shaped(part, spaces, also), records)


@dataclasses.dataclass(frozen=True)
class Shaped(RecordsWrapper):
    """Records of one data set for `shaped`; other shapes raise BadSample."""

    inner: Records
    spaces: tuple
    also: tuple = ()  # names of arrays that are kept unchanged if present

    def load(self, index, rng=None):
        item = self.inner.load(index, rng)
        found = {name: np.asarray(item[name]) for name in ("reward", *FLAGS)}
        for name, space in self.spaces:
            if name not in item or item[name].shape[1:] != space.shape:
                given = item[name].shape[1:] if name in item else "absent"
                raise BadSample(f"{name!r} is {given}, not {space.shape} as elsewhere")
            found[name] = item[name].astype(space.dtype)
        found["reward"] = found["reward"].astype(np.float32)
        return found | {name: item[name] for name in self.also if name in item}


class Chunks:
    """A source of consecutive pieces of windows, `parts` per window.

    Batches have "goes_on", bool [B]: the piece continues the last batch, so that the model
    starts from its last states of that batch. For other pieces it starts from "deter" [B,
    deter] and "stoch" [B, stoch], which are zeros.
    """

    def __init__(self, source, *, parts: int, deter: int, stoch: int):
        self.source, self.parts = source, parts
        self.widths = deter, stoch
        self.cursor, self.part, self.window = source.get_state(), 0, None

    def next(self, state=None, stopping=never):
        if self.window is None:
            self.cursor = self.source.get_state()
            self.window = self.source.next(stopping=stopping)
        B, steps = self.window["reward"].shape
        each = steps // self.parts
        now = slice(self.part * each, (self.part + 1) * each)
        batch = {k: np.ascontiguousarray(x[:, now]) for k, x in self.window.items()}
        batch["goes_on"] = np.full(B, self.part > 0)
        batch["deter"] = np.zeros((B, self.widths[0]), np.float32)
        batch["stoch"] = np.zeros((B, self.widths[1]), np.uint8)
        self.part = (self.part + 1) % self.parts
        if not self.part:
            self.window, self.cursor = None, self.source.get_state()
        return batch

    def get_state(self):
        return {**self.cursor, "part": self.part}

    def set_state(self, state):
        state = dict(state)
        self.part, self.window = state.pop("part"), None
        self.source.set_state(state)
        if self.part:
            self.cursor, self.window = state, self.source.next()

    def report(self):
        return self.source.report()

    def fingerprint(self):
        return self.source.fingerprint()

    def close(self):
        self.source.close()


def make_offline_source(
    split, shard, folder=None, *, records, spaces, action, batch, parts, seed, workers,
    max_bad_share, deter, stoch, stall_s=STALL_S,
):  # fmt: skip
    """Endless batches [b, T, ...] for one host, of windows of `parts` pieces.

    split and folder are not used. action, deter, stoch: widths of the model's vectors.
    Other arguments as in core/data/loading/pipeline.py.
    """
    source = make_source(
        shaped(records, spaces, action),
        batch=batch,
        shard=shard,
        seed=seed,
        workers=workers,
        max_bad_share=max_bad_share,
        stall_s=stall_s,
        shuffle=not isinstance(records, WorldWindows),  # which are random anyway
    )
    return Chunks(source, parts=parts, deter=deter, stoch=stoch)
