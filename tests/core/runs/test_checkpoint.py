"""Checkpoints are silent about what they raise, and leave no filter or hook behind."""

import contextlib
import logging
import shutil
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from core.runs import checkpoint

LOGGERS = ("absl", "asyncio", None)


@struct.dataclass
class State:
    step: jax.Array
    params: dict


def process_state():
    """What `quiet_orbax` changes, and stderr, which it does not."""
    filters = [list(logging.getLogger(name).filters) for name in LOGGERS]
    return filters, sys.unraisablehook, sys.stderr, list(warnings.filters)


@pytest.fixture
def unchanged():
    """Fails a test that leaves the process changed."""
    before = process_state()
    functions = [f for filters in before[0] for f in filters if callable(f)]
    assert not any(f.__module__.startswith("core.") for f in functions)  # by importing
    yield
    assert process_state() == before


@pytest.fixture
def saved(tmp_path):
    """(workdir, state, shapes, layouts) of a run with the checkpoints of two steps."""
    state = State(jnp.int32(2), {"kernel": jnp.arange(6.0).reshape(2, 3)})
    shapes = jax.eval_shape(lambda: state)
    layouts = jax.tree.map(lambda x: x.sharding, state)
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {"next_index": step})
    return tmp_path, state, shapes, layouts


def damage(workdir):
    (workdir / "checkpoints" / "2" / "state" / "manifest.ocdbt").write_bytes(b"")


def test_a_restored_state_equals_the_saved_one(unchanged, saved):
    workdir, state, *like = saved
    with checkpoint.Checkpoints(workdir, keep=2) as checkpoints:
        restored, cursor = checkpoints.restore(*like)
    assert cursor == {"next_index": 2}
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.read(workdir, *like), state)


def test_a_failed_restore_leaves_the_process_as_it_was(unchanged, saved, capfd):
    workdir, _, *like = saved
    damage(workdir)
    with pytest.raises(checkpoint.CheckpointError, match="damaged.*; use another one"):
        checkpoint.read(workdir, *like)
    match = "delete that folder to go on from step 1"
    with pytest.raises(checkpoint.CheckpointError, match=match):
        with checkpoint.Checkpoints(workdir, keep=2) as checkpoints:
            checkpoints.restore(*like)
    assert not capfd.readouterr().err


def test_a_failed_write_leaves_the_process_as_it_was(unchanged, saved, capfd):
    workdir, state, *_ = saved
    with pytest.raises(checkpoint.CheckpointError, match="checkpoints/3 cannot be"):
        with checkpoint.Checkpoints(workdir, keep=2) as checkpoints:
            shutil.rmtree(workdir / "checkpoints")
            (workdir / "checkpoints").write_text("a file")
            checkpoints.save(3, state, {"next_index": 3})
    assert not capfd.readouterr().err


def test_an_error_that_ends_the_run_is_not_hidden(unchanged, saved):
    with pytest.raises(KeyError), checkpoint.Checkpoints(saved[0], keep=2):
        raise KeyError


@pytest.mark.parametrize("depth", [1, 2])
def test_only_messages_of_orbax_are_silenced(unchanged, depth, caplog):
    def log(name, path):
        logger = logging.getLogger(name)
        logger.handle(logger.makeRecord(name, logging.ERROR, path, 1, path, (), None))

    def log_all():
        caplog.clear()
        log(None, "/site-packages/orbax/a.py")
        log("asyncio", "tasks.py")
        log(None, "core/train.py")
        return [record.pathname for record in caplog.records]

    assert len(log_all()) == 3
    with contextlib.suppress(RuntimeError), contextlib.ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(checkpoint.quiet_orbax())
        assert log_all() == ["core/train.py"]
        raise RuntimeError
    assert len(log_all()) == 3
