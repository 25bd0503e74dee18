"""The tensorflow-datasets builder that writes pieces of trajectories."""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from core.base.nested import nest
from core.prepare.cut_trajectories import read_piece
from core.prepare.parallel_work import folder_name
from core.prepare.video_clips import SPLITS

MOST_PIECES = 1 << 24  # per recording

FIELDS = {
    "id": tfds.features.Text(),
    "source": tfds.features.Text(),  # name of the recording
    "start": np.int64,  # step of the recording at which the piece begins
    "licence": tfds.features.Text(),
}


def feature(kind: str, shape) -> tfds.features.FeatureConnector:
    """The feature of an array of steps, by kind and shape of trajectory_pieces.piece_form."""
    if kind == "film":
        return tfds.features.Tensor(shape=(), dtype=np.object_)  # the bytes of an mp4
    if kind == "text":
        return tfds.features.Sequence(tfds.features.Text())
    dtype = np.dtype(kind).type
    return tfds.features.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")


class Trajectories(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes pieces of recordings in order.

    plan: a TrajectoryPlan. form: kind and shape of each array. about: names, units and rate
    (core/data/episodes/trajectories.py). facts, splits: facts and split of each recording.
    work: the folder with their pieces.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, *, name, plan, form, about, facts=None, splits=None, work=None, **options
    ):
        self.name, self.plan, self.form, self.about = name, plan, form, about
        self.facts, self.splits, self.work = facts, splits, work
        super().__init__(file_format="array_record", **options)

    def _info(self):
        steps = nest({name: feature(*kind) for name, kind in self.form.items()})
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pieces of trajectories, in order.",
            features=tfds.features.FeaturesDict(FIELDS | {"steps": steps}),
            license=self.plan.licence or None,
            disable_shuffling=True,  # a window may continue in the next piece
            metadata=tfds.core.MetadataDict(
                plan=dataclasses.asdict(self.plan), about=self.about
            ),
        )

    def _split_generators(self, dl_manager):
        names = [name for name in SPLITS if name in self.splits.values()]
        return {name: self._generate_examples(name) for name in names}

    def _generate_examples(self, split):
        for name, found in self.facts.items():
            if self.splits[name] == split:
                home = pathlib.Path(self.work) / folder_name(name)
                for number, start in enumerate(found["pieces"]):
                    piece = read_piece(home / f"{number:05d}.npz", self.form)
                    yield example(self.plan, name, found["index"], number, start, piece)


def example(plan, name, index, number, start, piece) -> tuple[int, dict]:
    """(key, example) of a piece; keys rise in the order of the pieces."""
    fields = {"id": f"{name}#{number:05d}", "source": name, "start": start}
    fields |= {"licence": plan.licence, "steps": nest(piece)}
    return index * MOST_PIECES + number, fields
