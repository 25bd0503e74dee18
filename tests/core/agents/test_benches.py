"""Benchmarks of acting, without a model."""

import walk

from core.agents import benches
from core.agents.policy import step_shapes


def test_rates_of_environments_and_replay(monkeypatch):
    monkeypatch.setattr(benches, "SECONDS", 0.05)
    monkeypatch.setattr(benches, "MEMORY", 1 << 16)
    found = benches.make_benches(
        lambda seed: walk.make_pool(count=2, seed=seed),
        actions=walk.ACTIONS,
        shapes=step_shapes(walk.SPACES, walk.ACTIONS),
        kept=walk.POLICY.kept_shapes,
        streams=2,
        batch=4,
        length=3,
        seed=0,
    )
    assert set(found) == {"env", "replay"}
    assert found["env"]()["env_steps_per_second"] > 10
    numbers = found["replay"]()
    assert numbers["replay_sequences_per_second"] > 10
    # place, three flags, an action of 4, reward; memory of 2 halves, age.
    assert numbers["replay_bytes_per_step"] == 4 + 3 + 16 + 4 + 4 + 4
