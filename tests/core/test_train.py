"""The loop: when things are due, what a bad update does, how a run begins and ends."""

import json
import signal

import jax
import numpy as np
import pytest
from small import record, share_programs, steady, use_one_device
from toy import summing

from core import train
from core.parallel.batches import to_device
from core.runs import checkpoint
from core.runs.preemption import Preempted
from core.runs.reporter import Diverged, Reporter


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        share_programs(patch)
        yield


@pytest.fixture(scope="module")
def trained(one_device, tmp_path_factory):
    """The folder of a run of two steps, which tests copy or read."""
    folder = tmp_path_factory.mktemp("trained")
    train.fit(steady(steps=2), folder)
    return folder


@pytest.fixture
def planned():
    """(config, method, plan) on one device; the plan is shared with runs of `steady`."""
    config = steady()
    method, mesh = train.load_method(config), train.make_mesh(**config.mesh)
    options = {"seed": config.seed, "offload": config.offload, "norm": 0.0}
    return config, method, train.build_program(method, mesh, **options)


@pytest.mark.parametrize(
    ("every", "steps"),
    [(3, [3, 6, 9, 10]), (1, list(range(1, 11))), (0, [10]), (-1, []), (50, [10])],
)
def test_due(every, steps):
    assert [step for step in range(11) if train.due(step, every, 10)] == steps


def test_a_bad_update_leaves_no_trace(planned):
    _, method, plan = planned
    source = method.source("train", (0, 1))
    batch = to_device(plan.mesh, source.next(), method.batch)
    source.close()
    state = plan.create()
    scale = state.params["predictor"]["norm"]["scale"]
    state.params["predictor"]["norm"]["scale"] = scale.at[0].set(np.nan)
    before = jax.device_get(state)
    for bad_steps in (1, 2):
        with jax.set_mesh(plan.mesh):
            state, metrics = plan.step(state, batch)
        assert int(metrics["bad_steps"]) == int(state.bad_steps) == bad_steps
        assert int(state.step) == bad_steps and np.isnan(metrics["loss"])
    after = jax.device_get(state).replace(step=before.step, bad_steps=before.bad_steps)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    state.params["predictor"]["norm"]["scale"] = scale
    with jax.set_mesh(plan.mesh):
        state, metrics = plan.step(state, batch)
    assert int(metrics["bad_steps"]) == 0 and np.isfinite(metrics["loss"])
    assert not np.array_equal(state.params["predictor"]["norm"]["scale"], scale)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path, capfd):
    settings = {"steps": 40, "save_steps": 1, "max_bad_steps": 4}
    wild = summing.config(**settings, bad=tuple(range(3, 40)))
    with pytest.raises(Diverged, match="not finite in the last 4 steps up to 7, "):
        train.fit(wild, tmp_path)
    assert "step 4: loss or gradient is not finite" in capfd.readouterr().out
    saved = checkpoint.steps_in(tmp_path / "checkpoints")
    assert saved == [1, 2, 3]  # none of a state whose update was not applied

    stops = {"left": 1}

    def stop(self, *args, step=Reporter.step, **kw):
        step(self, *args, **kw)
        if self.bad_steps == 2 and stops.pop("left", 0):
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reporter, "step", stop)
        with pytest.raises(Preempted, match="stopped at step 6"):
            train.fit(wild, tmp_path)
        with pytest.raises(Diverged, match="up to 10, "):  # four new tries, not two
            train.fit(wild, tmp_path)
    state = train.fit(
        summing.config(steps=4), tmp_path, allow_config_change=True, restore_step=3
    )
    assert int(state.step) == 4 and int(state.bad_steps) == 0
    lines = record(tmp_path)["metrics"]
    assert [line["loss"] for line in lines] == [0, 1, 2, 3]


@pytest.mark.parametrize("place", ["", "checkpoints/2"])
def test_init_from_keeps_moments_and_counts_anew(trained, tmp_path, planned, place):
    _, method, plan = planned
    theirs = checkpoint.read(trained, plan.shapes, plan.layouts)
    assert int(theirs.step) == 2
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        state, start, _ = train.begin(
            method, plan, checkpoints, None, init_from=str(trained / place)
        )
    assert start == int(state.step) == int(state.bad_steps) == 0
    assert state.step.sharding == plan.layouts.step
    same = jax.device_get(state).replace(step=theirs.step, bad_steps=theirs.bad_steps)
    jax.tree.map(np.testing.assert_array_equal, same, jax.device_get(theirs))
    with jax.set_mesh(plan.mesh):  # step and bad_steps are donated apart
        source = method.source("train", (0, 1))
        plan.step(state, to_device(plan.mesh, source.next(), method.batch))
        source.close()


def test_the_folder_of_a_run(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        *("config.json", "checkpoints", "metrics.jsonl", "layout.txt"),
        *("provenance.json", "summary.json"),
    }
    assert json.loads((trained / "config.json").read_text())["steps"] == 2
    origin = json.loads((trained / "provenance.json").read_text())
    assert origin["packages"]["jax"] == jax.__version__ and origin["parent"] is None
    assert "params/encoder/norm/scale" in (trained / "layout.txt").read_text()
    assert record(trained)["summary"]["step"] == 2
    assert [p.name for p in (trained / "pictures").iterdir()] == ["00000001_batch.png"]
    events = b"".join(p.read_bytes() for p in trained.glob("events.*"))
    assert b"\x0a\x05batch" in events  # the tag of a TensorBoard picture


def test_a_second_run_beside_the_first_is_refused(tmp_path):
    from core.runs import run_folder

    with (
        run_folder.hold_lock(tmp_path),
        pytest.raises(ValueError, match="another process"),
    ):
        with run_folder.hold_lock(tmp_path):
            pass
    with run_folder.hold_lock(tmp_path):
        pass


def test_state_may_wait_in_the_memory_of_the_host(tmp_path):
    config = steady(steps=1)
    near = train.fit(config, tmp_path / "near")
    config.offload, config.eval_steps.health = "opt,target", 0
    away = train.fit(config, tmp_path / "away")
    kinds = {
        k: jax.tree.leaves(getattr(away, k))[1] for k in ("opt", "target", "params")
    }
    kinds = {k: x.sharding.memory_kind for k, x in kinds.items()}
    assert kinds == {"opt": "pinned_host", "target": "pinned_host", "params": "device"}
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((near, away)))
    config.offload = "moments"
    with pytest.raises(
        ValueError,
        match="the state has no field 'moments'; expected one of step, params",
    ):
        train.fit(config, tmp_path / "wrong")
