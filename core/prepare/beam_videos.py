"""An Apache Beam pipeline that prepares videos as core/prepare/video_clips.py does.

Near duplicates are found in groups that share a band of their fingerprints, so no machine
needs to hold all clips.
"""

import functools
import os

import apache_beam as beam

from core.prepare import near_duplicates, video_clips
from core.prepare.near_duplicates import source_of
from core.prepare.videos import Videos

SPACE = "prepare"


class Counted:
    """Mix-in for a builder: `counts` has the pipeline's counters after it has run."""

    counts = None

    def _process_pipeline_result(self, pipeline_result):
        self.counts = read_counters(pipeline_result)


class BeamVideos(Counted, Videos):
    """The builder of core/prepare/videos.py as a pipeline for many machines."""

    def _split_generators(self, dl_manager, pipeline):
        return video_splits(pipeline, self.plan)


def video_splits(pipeline, plan) -> dict:
    """{split: collection of (id, example)} of a VideoPlan."""
    rules = plan.rules
    cut = (
        pipeline
        | "Videos"
        >> beam.Create([(n, os.fsencode(p), x) for n, p, x in plan.sources()])
        | "SpreadVideos" >> beam.Reshuffle()
        | "Cut" >> beam.FlatMap(cut_one_video, plan)
        | "SpreadClips" >> beam.Reshuffle()
    )
    copies = (
        cut
        | "Bands" >> beam.FlatMap(split_into_bands, rules.near)
        | "GroupByBand" >> beam.GroupByKey()
        | "Twins" >> beam.FlatMap(duplicates_in_band, rules.near)
        | "FirstTwin" >> beam.CombinePerKey(min)
    )
    whole = (
        {
            "clips": cut | "Moving" >> beam.FlatMap(key_by_source, rules.min_motion),
            "copies": copies
            | "CopySources" >> beam.Map(lambda x: (source_of(x[0]), x)),
        }
        | "GroupBySource" >> beam.CoGroupByKey()
        | "WholeCopies" >> beam.FlatMap(copies_of_one_video)
    )
    copies = (
        (copies, whole)
        | "AllTwins" >> beam.Flatten()
        | "FirstOfAll" >> beam.CombinePerKey(min)
    )
    edge = (
        cut
        | "Places"
        >> beam.Map(lambda clip: video_clips.hash_to_share(clip[1]["checksum"]))
        | "LowestPlaces" >> beam.CombineGlobally(Lowest())
        | "Edge" >> beam.Map(video_clips.validation_edge, rules.held)
    )
    assigned = (
        {"clip": cut, "copy": copies}
        | "GroupById" >> beam.CoGroupByKey()
        | "Judge" >> beam.FlatMap(assign_split, rules, beam.pvalue.AsSingleton(edge))
    )
    return by_split(
        assigned, video_clips.SPLITS if rules.held else video_clips.SPLITS[:1]
    )


def by_split(assigned, splits) -> dict:
    """{split: collection of its examples}, of a collection of (split, example)."""
    return {
        name: assigned
        | f"Pick_{name}" >> beam.Filter(functools.partial(is_in_split, name))
        | f"Examples_{name}" >> beam.Map(lambda pair: pair[1])
        for name in splits
    }


def count(name, by=1):
    """Add to a counter of the running pipeline; counters are the report."""
    beam.metrics.Metrics.counter(SPACE, name).inc(by)


def read_counters(result) -> dict[str, int]:
    """{name: value} of the counters of a finished pipeline."""
    query = beam.metrics.MetricsFilter().with_namespace(SPACE)
    return {
        found.key.metric.name: found.result
        for found in result.metrics().query(query)["counters"]
    }


def cut_one_video(source, plan):
    """Yield (id, example) of the clips of one video; count it if it is bad."""
    count("videos")
    name, path, label = source  # the path in bytes: Beam's coders take UTF-8 alone
    source = name, os.fsdecode(path), label
    for example, reason in video_clips.clips_until_bad(plan, *source):
        if reason:
            count(f"bad video: {reason}")
        else:
            count("clips cut")
            yield example["id"], example


def split_into_bands(clip, near_bits):
    """Yield (band, (id, fingerprint)); nothing if duplicates are kept."""
    key, example = clip
    if near_bits >= 0:
        for band in near_duplicates.bands(example["fingerprint"]):
            yield band, (key, example["fingerprint"])


def duplicates_in_band(group, near_bits):
    """Yield (id, id of an earlier clip that looks like it)."""
    yield from near_duplicates.duplicates_in_group(group[1], near_bits).items()


def key_by_source(clip, min_motion):
    """Yield (video, id) of a clip that moves."""
    key, example = clip
    if example["motion"] >= min_motion:
        yield source_of(key), key


def copies_of_one_video(group):
    """Yield (id, id of a clip of another video) if the video is a copy of others."""
    keys, copies = sorted(group[1]["clips"]), dict(group[1]["copies"])
    if keys:
        found = near_duplicates.copies_of_whole_videos(keys, copies)
        yield from ((key, copies.get(key, other)) for key, other in found.items())


class Lowest(beam.CombineFn):
    """The two lowest values."""

    def create_accumulator(self):
        return []

    def add_input(self, lowest, value):
        return sorted({*lowest, value})[:2]

    def merge_accumulators(self, all_of_them):
        return sorted({x for some in all_of_them for x in some})[:2]

    def extract_output(self, lowest):
        return lowest


def assign_split(found, rules, edge):
    """Yield (split, (id, example)) of a clip if it is kept; count it either way."""
    key, groups = found
    [example], copy = groups["clip"], min(groups["copy"], default=None)
    result = video_clips.split_or_reason(example, rules, copy, edge)
    if result in video_clips.SPLITS:
        count(f"clips {result}")
        count("bytes", len(example["video"]))
        count("milliseconds", round(1000 * (example["end"] - example["start"])))
        yield result, (key, example)
    else:
        count(f"clips dropped: {video_clips.reason_kind(result)}")


def is_in_split(name, pair):
    return pair[0] == name
