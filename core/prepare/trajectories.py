"""The builder that writes pieces of trajectories as a data set of tensorflow-datasets."""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from core.base.nested import nest
from core.prepare.clips import SPLITS
from core.prepare.cut_episodes import read_piece
from core.prepare.parallel_work import home_of

MOST_PIECES = 1 << 24  # of a recording

FIELDS = {
    "id": tfds.features.Text(),
    "source": tfds.features.Text(),  # the recording
    "start": np.int64,  # its step that the piece begins with
    "licence": tfds.features.Text(),
}


def feature(kind: str, shape) -> tfds.features.FeatureConnector:
    """How an array of steps is written; array_record compresses it."""
    if kind == "film":
        return tfds.features.Tensor(shape=(), dtype=np.object_)  # the bytes of an mp4
    if kind == "text":
        return tfds.features.Sequence(tfds.features.Text())
    dtype = np.dtype(kind).type
    return tfds.features.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")


class Trajectories(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Pieces of recordings, in the order in which they follow each other.

    plan: what of. form: kind and shape of each array; about: what is told of them. facts,
    fates: the recordings that are cut and what becomes of each; work: the folder with
    their pieces.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, *, name, plan, form, about, facts=None, fates=None, work=None, **options
    ):
        self.name, self.plan, self.form, self.about = name, plan, form, about
        self.facts, self.fates, self.work = facts, fates, work
        super().__init__(file_format="array_record", **options)

    def _info(self):
        steps = nest({name: feature(*kind) for name, kind in self.form.items()})
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pieces of trajectories, in order.",
            features=tfds.features.FeaturesDict(FIELDS | {"steps": steps}),
            license=self.plan.licence or None,
            disable_shuffling=True,  # a window may go on in the next piece
            metadata=tfds.core.MetadataDict(
                plan=dataclasses.asdict(self.plan), about=self.about
            ),
        )

    def _split_generators(self, dl_manager):
        splits = [name for name in SPLITS if name in self.fates.values()]
        return {name: self._generate_examples(name) for name in splits}

    def _generate_examples(self, split):
        for name, found in self.facts.items():
            if self.fates[name] == split:
                home = pathlib.Path(self.work) / home_of(name)
                for number, start in enumerate(found["pieces"]):
                    piece = read_piece(home / f"{number:05d}.npz", self.form)
                    yield example(self.plan, name, found["index"], number, start, piece)


def example(plan, name, index, number, start, piece) -> tuple[int, dict]:
    """(key, example) of a piece: the keys tell the order."""
    fields = {"id": f"{name}#{number:05d}", "source": name, "start": start}
    fields |= {"licence": plan.licence, "steps": nest(piece)}
    return index * MOST_PIECES + number, fields
