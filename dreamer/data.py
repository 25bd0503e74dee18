"""What offline pretraining reads: windows of trajectories, in chunks that go on."""

import dataclasses

import numpy as np

from core.agents.spaces import Space
from core.data import source_names
from core.data.bodies.world import World
from core.data.mixture import map_parts
from core.data.pipeline import make_source
from core.data.records import BadSample, Records, RecordsWrapper
from core.data.steps import FLAGS, is_observation
from core.data.trajectories import WorldWindows

HELD_OUT = 1 << 20  # added to the seed: clips that training never sees


def make_world(split, *, seed, steps, size, level, bodies, fps) -> World:
    """The embedded world with an agent that pushes; "validation" clips are apart."""
    look = {"size": size, "level": level, "bodies": bodies, "fps": fps}
    seed += HELD_OUT * (split == "validation")
    return World(seed, variant="pushed", frames=steps, **look)


def make_records(split, *, source, steps, apart, **world):
    """Windows of `steps` steps of what core/data/source_names.py calls `source`.

    split: "train", or "validation" for what training never sees, `apart` steps at least.
    """

    def pushed():
        return WorldWindows(make_world(split, steps=steps, **world))

    return source_names.trajectories(
        source, split, steps=steps, apart=apart, world=pushed
    )


def spaces_of(records):
    """Observations and actions that records hold, told by the first that can be read."""
    for index in range(min(len(records), 8)):
        try:
            item = records.load(index)
            break
        except Exception as error:  # noqa: BLE001, the pipeline counts and names them
            why = error
    else:
        raise ValueError(f"the first records of {records} cannot be read: {why}")
    spaces = {
        name: Space(x.shape[1:], "uint8" if x.dtype == np.uint8 else "float32")
        for name, x in item.items()
        if is_observation(name)
    }
    return spaces, {"action": Space(item["action"].shape[1:])}


def shaped(records: Records, spaces, action: int, also=()) -> Records:
    """Records of which each sample is as the model takes it, or is bad.

    action: how many numbers one has.
    """
    spaces = (*spaces, ("action", Space((action,))))
    return map_parts(lambda part: Shaped(part, spaces, also), records)


@dataclasses.dataclass(frozen=True)
class Shaped(RecordsWrapper):
    """Records as the model takes them: the arrays it knows, in its types and shapes."""

    inner: Records
    spaces: tuple
    also: tuple = ()  # other arrays to leave as they are where there are any

    def load(self, index, rng=None):
        item = self.inner.load(index, rng)
        found = {name: np.asarray(item[name]) for name in ("reward", *FLAGS)}
        for name, space in self.spaces:
            if name not in item or item[name].shape[1:] != space.shape:
                there = item[name].shape[1:] if name in item else "absent"
                raise BadSample(f"{name!r} is {there}, not {space.shape} as elsewhere")
            found[name] = item[name].astype(space.dtype)
        found["reward"] = found["reward"].astype(np.float32)
        return found | {name: item[name] for name in self.also if name in item}


class Chunks:
    """A source whose windows are given out in `parts` pieces, one after the other.

    All but the first piece of a window go on where the one before has ended: "goes_on"
    tells the model to begin from the states it ended with.
    """

    def __init__(self, source, *, parts: int, deter: int, stoch: int):
        self.source, self.parts = source, parts
        self.widths = deter, stoch
        self.cursor, self.part, self.window = source.get_state(), 0, None

    def next(self, state=None):
        if self.window is None:
            self.cursor = self.source.get_state()
            self.window = self.source.next()
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

    def close(self):
        self.source.close()


def make_offline_source(
    split, shard, folder=None, *, records, spaces, action, batch, parts, seed, workers,
    max_bad_share, deter, stoch,
):  # fmt: skip
    """Endless batches [b, T, ...] of windows in `parts` pieces each; `folder` is not used."""
    source = make_source(
        shaped(records, spaces, action),
        batch=batch,
        shard=shard,
        seed=seed,
        workers=workers,
        max_bad_share=max_bad_share,
        shuffle=not isinstance(records, WorldWindows),  # those are endless
    )
    return Chunks(source, parts=parts, deter=deter, stoch=stoch)
