"""The tensorflow-datasets builder that writes clips of videos.

launch.prepare uses it. Alone, `tfds build core/prepare/videos.py --manual_dir=FOLDER` prepares
the videos in FOLDER with the default plan; that command needs TensorFlow.
"""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from core.prepare import video_clips

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
    "motion": np.float64,  # mean change of brightness (0..1) per second
    "fingerprint": tfds.features.Text(),
}


class Videos(tfds.core.GeneratorBasedBuilder):
    """Writes short clips of videos.

    plan: a VideoPlan; if None, the videos in manual_dir are prepared. known, splits: all
    clips without their videos, and {id: split or why it is dropped}. work: the folder with
    their videos.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the folder of the videos."

    def __init__(
        self, *, name="videos", plan=None, known=(), splits=None, work=None, **options
    ):
        self.name = name
        self.plan, self.known, self.splits, self.work = plan, known, splits, work
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
            self.plan = video_clips.VideoPlan(str(dl_manager.manual_dir))
            self.work = pathlib.Path(dl_manager.download_dir) / f"{self.name}.work"
            self.known = video_clips.all_clips(
                video_clips.cut_videos(self.plan, self.work)
            )
            self.splits = video_clips.assign_clip_splits(self.known, self.plan.rules)
        names = [name for name in video_clips.SPLITS if name in self.splits.values()]
        return {name: self._generate_examples(name) for name in names}

    def _generate_examples(self, split):
        for clip in self.known:
            if self.splits[clip["id"]] == split:
                video = video_clips.clip_path(self.work, clip).read_bytes()
                example = {k: x for k, x in clip.items() if k in FIELDS}
                yield clip["id"], example | {"video": video}
