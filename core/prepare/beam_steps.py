"""The same cuts and decisions as core/prepare/episodes.py, as steps of a Beam pipeline."""

import apache_beam as beam

from core.data import source_names
from core.prepare import episodes
from core.prepare.beam import Counted, by_split, count
from core.prepare.clips import SPLITS
from core.prepare.cut_episodes import ODD, until_bad
from core.prepare.trajectories import Trajectories, example


class BeamTrajectories(Counted, Trajectories):
    """The builder of trajectories as a pipeline, which no single machine has to hold."""

    def _split_generators(self, dl_manager, pipeline):
        return splits(pipeline, self.plan, self.form)


def splits(pipeline, plan, form) -> dict:
    """{split: its (key, example)s} of a plan."""
    recordings = source_names.recordings(plan.place)
    all_names = [recordings.name(i) for i in range(len(recordings))]
    edge = episodes.edge_of(plan, all_names)
    cut = (
        pipeline
        | "Recordings" >> beam.Create(range(len(recordings)))
        | "Spread" >> beam.Reshuffle()
        | "Cut" >> beam.FlatMap(cut_recording, plan, recordings, form, edge)
    )
    return by_split(cut, SPLITS if edge else SPLITS[:1])


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
