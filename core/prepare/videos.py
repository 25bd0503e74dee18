"""The builder that writes clips as a data set of tensorflow-datasets.

On its own, `tfds build core/prepare/videos.py --manual_dir=FOLDER`, a command that needs
TensorFlow, makes one of the videos in FOLDER; `launch.prepare` says how.
"""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from core.prepare import clips

FIELDS = {
    "id": tfds.features.Text(),
    "video": tfds.features.Tensor(shape=(), dtype=np.object_),  # the bytes of an mp4
    "source": tfds.features.Text(),
    "checksum": tfds.features.Text(),  # SHA-256 of the source
    "start": np.float64,  # seconds in the source
    "end": np.float64,
    "fps": np.float64,
    "frames": np.int32,
    "height": np.int32,
    "width": np.int32,
    "label": np.int64,  # -1: none
    "licence": tfds.features.Text(),
    "motion": np.float64,
    "fingerprint": tfds.features.Text(),
}


class Videos(tfds.core.GeneratorBasedBuilder):
    """Short clips of videos, encoded to be decoded fast.

    plan: what of. known, fates: the clips that are cut and what becomes of each; work: the
    folder with their videos. Without a plan all is made of the manual_dir.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the folder of the videos."

    def __init__(
        self, *, name="videos", plan=None, known=(), fates=None, work=None, **options
    ):
        self.name = name
        self.plan, self.known, self.fates, self.work = plan, known, fates, work
        options.setdefault("file_format", "array_record")
        super().__init__(**options)

    def _info(self):
        plan = dataclasses.asdict(self.plan) if self.plan else {}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips of videos, cut on a steady grid of time.",
            features=tfds.features.FeaturesDict(FIELDS),
            license=plan.get("licence") or None,
            metadata=tfds.core.MetadataDict(plan=plan),
        )

    def _split_generators(self, dl_manager):
        if self.plan is None:
            self.plan = clips.Plan(str(dl_manager.manual_dir))
            self.work = pathlib.Path(dl_manager.download_dir) / f"{self.name}.work"
            self.known = clips.clips_of(clips.cut_here(self.plan, self.work))
            self.fates = clips.decide(self.known, self.plan.rules)
        splits = [name for name in clips.SPLITS if name in self.fates.values()]
        return {name: self._generate_examples(name) for name in splits}

    def _generate_examples(self, split):
        for clip in self.known:
            if self.fates[clip["id"]] == split:
                video = clips.file_of(self.work, clip).read_bytes()
                example = {k: x for k, x in clip.items() if k in FIELDS}
                yield clip["id"], example | {"video": video}
