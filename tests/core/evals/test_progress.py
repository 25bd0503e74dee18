"""Loops of evaluations: what they say of their progress, and that they end when asked to."""

import numpy as np
import pytest

from core.base.waiting import Stopped
from core.evals import progress
from core.evals.progress import watched
from core.evals.readout import fit_readout
from core.method import Watch
from jepa.evals.probe import Readout


def test_a_loop_says_its_share_and_the_time_left(monkeypatch):
    seconds, said = [100.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    for _ in watched(range(9), "clips", Watch(said.append)):
        seconds[0] += 4
    # Rows take 4 s; a line is due every 10 s.
    assert said == ["clips 3/9, 0:24 left", "clips 6/9, 0:12 left"]


def test_a_loop_ends_where_a_stop_is_requested():
    seen = []
    with pytest.raises(Stopped):
        for i in watched(
            iter("abc"), "rows", Watch(stopping=lambda: len(seen) == 2), total=3
        ):
            seen.append(i)
    assert seen == ["a", "b"]


def test_a_fit_ends_within_a_few_steps():
    """Not after its last step, for which a user would wait."""
    rng, asked = np.random.default_rng(0), []
    watch = Watch(stopping=lambda: asked.append(0) or len(asked) > 3)
    with pytest.raises(Stopped):
        fit_readout(
            Readout(bodies=1, grid=(1, 1, 1), frames=1, width=8, heads=1),
            rng.standard_normal((4, 1, 8)),
            rng.standard_normal((4, 1, 1, 4)),
            steps=10**6, batch=2, lr=1e-3, watch=watch,
        )  # fmt: skip
    assert len(asked) == 4
