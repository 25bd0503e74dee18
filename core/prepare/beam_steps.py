"""The same cuts and decisions as core/prepare/episodes.py, as steps of a Beam pipeline."""

import functools

import apache_beam as beam

from core.data import names
from core.prepare import episodes
from core.prepare.beam import count, counts, is_for
from core.prepare.clips import SPLITS
from core.prepare.cut_episodes import ODD, until_bad
from core.prepare.trajectories import Trajectories, example


class BeamTrajectories(Trajectories):
    """The builder of trajectories as a pipeline, which no single machine has to hold."""

    counts = None  # of what has become of recordings and steps, once it has run

    def _split_generators(self, dl_manager, pipeline):
        return splits(pipeline, self.plan, self.form)

    def _process_pipeline_result(self, pipeline_result):
        self.counts = counts(pipeline_result)


def splits(pipeline, plan, form) -> dict:
    """{split: its (key, example)s} of a plan."""
    recordings = names.recordings(plan.place)
    all_names = [recordings.name(i) for i in range(len(recordings))]
    edge = episodes.edge_of(plan, all_names)
    cut = (
        pipeline
        | "Recordings" >> beam.Create(range(len(recordings)))
        | "Spread" >> beam.Reshuffle()
        | "Cut" >> beam.FlatMap(cut_recording, plan, recordings, form, edge)
    )
    return {
        name: cut
        | f"Pick_{name}" >> beam.Filter(functools.partial(is_for, name))
        | f"Examples_{name}" >> beam.Map(lambda judged: judged[1])
        for name in (SPLITS if edge else SPLITS[:1])
    }


def cut_recording(index, plan, recordings, form, edge):
    """(split, (key, example)) of the pieces of a recording, which may be bad."""
    name = recordings.name(index)
    count("recordings")
    pieces = list(until_bad(plan, recordings, index))
    reasons = [reason for _, _, reason in pieces if reason]
    if reasons or any(episodes.form_of(piece) != form for _, piece, _ in pieces):
        count(f"bad recording: {reasons[0] if reasons else ODD}")
        return
    split = SPLITS[episodes.spot(name) < edge]
    for number, (start, piece, _) in enumerate(pieces):
        count(f"pieces {split}")
        count(f"steps {split}", len(piece["is_first"]))
        arrays = episodes.as_example(episodes.plain(piece), form)
        yield split, example(plan, name, index, number, start, arrays)
