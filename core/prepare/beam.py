"""The same cuts and decisions as core/prepare/clips.py, as steps of an Apache Beam pipeline.

Only the groups that share a band of their fingerprints meet on a machine, never all clips.
"""

import functools

import apache_beam as beam

from core.prepare import clips, near_duplicates
from core.prepare.videos import Videos

SPACE = "prepare"


class Counted:
    """A builder that tells what has become of all that it has read, once it has run."""

    counts = None

    def _process_pipeline_result(self, pipeline_result):
        self.counts = counts(pipeline_result)


class BeamVideos(Counted, Videos):
    """The builder of videos as a pipeline, which no single machine has to hold."""

    def _split_generators(self, dl_manager, pipeline):
        return splits(pipeline, self.plan)


def splits(pipeline, plan) -> dict:
    """{split: its (id, example)s} of a plan."""
    rules = plan.rules
    cut = (
        pipeline
        | "Videos" >> beam.Create(plan.sources())
        | "SpreadVideos" >> beam.Reshuffle()
        | "Cut" >> beam.FlatMap(cut_video, plan)
        | "SpreadClips" >> beam.Reshuffle()
    )
    copies = (
        cut
        | "Bands" >> beam.FlatMap(bands, rules.near)
        | "GroupByBand" >> beam.GroupByKey()
        | "Twins" >> beam.FlatMap(twins, rules.near)
        | "FirstTwin" >> beam.CombinePerKey(min)
    )
    edge = (
        cut
        | "Places" >> beam.Map(lambda clip: clips.place(clip[1]["checksum"]))
        | "LowestPlaces" >> beam.CombineGlobally(Lowest())
        | "Edge" >> beam.Map(clips.threshold, rules.held)
    )
    judged = (
        {"clip": cut, "copy": copies}
        | "GroupById" >> beam.CoGroupByKey()
        | "Judge" >> beam.FlatMap(judge, rules, beam.pvalue.AsSingleton(edge))
    )
    return by_split(judged, clips.SPLITS if rules.held else clips.SPLITS[:1])


def by_split(judged, splits) -> dict:
    """{split: its examples} of (split, example)s."""
    return {
        name: judged
        | f"Pick_{name}" >> beam.Filter(functools.partial(is_for, name))
        | f"Examples_{name}" >> beam.Map(lambda judged: judged[1])
        for name in splits
    }


def count(name, by=1):
    beam.metrics.Metrics.counter(SPACE, name).inc(by)


def counts(result) -> dict[str, int]:
    """What was counted while a pipeline ran."""
    query = beam.metrics.MetricsFilter().with_namespace(SPACE)
    return {
        found.key.metric.name: found.result
        for found in result.metrics().query(query)["counters"]
    }


def cut_video(source, plan):
    """(id, example) of the clips of one video, which may be bad."""
    count("videos")
    for example, reason in clips.until_bad(plan, *source):
        if reason:
            count(f"bad video: {reason}")
        else:
            count("clips cut")
            yield example["id"], example


def bands(clip, near_bits):
    key, example = clip
    if near_bits >= 0:
        for band in near_duplicates.bands(example["fingerprint"]):
            yield band, (key, example["fingerprint"])


def twins(group, near_bits):
    yield from near_duplicates.twins(group[1], near_bits).items()


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


def judge(found, rules, edge):
    """(split, (id, example)) of a clip that is kept."""
    key, groups = found
    [example], copy = groups["clip"], min(groups["copy"], default=None)
    fate = clips.fate(example, rules, copy, edge)
    if fate in clips.SPLITS:
        count(f"clips {fate}")
        count("bytes", len(example["video"]))
        count("milliseconds", round(1000 * (example["end"] - example["start"])))
        yield fate, (key, example)
    else:
        count(f"clips dropped: {clips.kind_of(fate)}")


def is_for(name, judged):
    return judged[0] == name
