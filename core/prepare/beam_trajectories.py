"""A Beam pipeline that prepares trajectories as core/prepare/cut_trajectories.py does."""

import apache_beam as beam

from core.prepare import trajectory_pieces
from core.prepare.beam_videos import Counted, by_split, count
from core.prepare.cut_trajectories import ODD, pieces_until_bad
from core.prepare.trajectories import Trajectories, example
from core.prepare.video_clips import SPLITS


class BeamTrajectories(Counted, Trajectories):
    """The builder of core/prepare/trajectories.py as a pipeline for many machines."""

    def _split_generators(self, dl_manager, pipeline):
        return trajectory_splits(pipeline, self.plan, self.form)


def trajectory_splits(pipeline, plan, form) -> dict:
    """{split: collection of (key, example)} of a TrajectoryPlan."""
    recordings = plan.recordings()
    all_names = [recordings.name(i) for i in range(len(recordings))]
    edge = trajectory_pieces.recordings_edge(plan, all_names)
    cut = (
        pipeline
        | "Recordings" >> beam.Create(range(len(recordings)))
        | "Spread" >> beam.Reshuffle()
        | "Cut" >> beam.FlatMap(cut_recording, plan, recordings, form, edge)
    )
    return by_split(cut, SPLITS if edge else SPLITS[:1])


def cut_recording(index, plan, recordings, form, edge):
    """Yield (split, (key, example)) of the pieces of a recording; count it if it is bad."""
    name = recordings.name(index)
    count("recordings")
    pieces = list(pieces_until_bad(plan, recordings, index))
    reasons = [reason for _, _, reason in pieces if reason]
    if reasons or any(
        trajectory_pieces.piece_form(piece) != form for _, piece, _ in pieces
    ):
        count(f"bad recording: {reasons[0] if reasons else ODD}")
        return
    split = SPLITS[trajectory_pieces.name_to_share(name) < edge]
    for number, (start, piece, _) in enumerate(pieces):
        count(f"pieces {split}")
        count(f"steps {split}", len(piece["is_first"]))
        arrays = trajectory_pieces.as_example_arrays(
            trajectory_pieces.as_arrays(piece), form
        )
        yield split, example(plan, name, index, number, start, arrays)
