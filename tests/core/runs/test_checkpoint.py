"""Checkpoints are what was written, or one sentence says what is wrong."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from core.base.digests import SUMS, read_sums
from core.runs import checkpoint, integrity
from core.runs.orbax_errors import quiet_orbax

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
            state = state.replace(step=jnp.int32(step))
            checkpoints.save(step, state, {"next_index": step})
    return tmp_path, state, shapes, layouts


def largest(folder):
    files = (p for p in folder.rglob("*") if p.is_file())
    return max(files, key=lambda p: p.stat().st_size)


def test_a_restored_state_equals_the_saved_one(unchanged, saved):
    workdir, state, *like = saved
    with checkpoint.Checkpoints(workdir, keep=2) as checkpoints:
        restored, cursor = checkpoints.restore(*like)
    assert cursor == {"next_index": 2}
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.read(workdir, *like), state)


@pytest.mark.parametrize(
    "name", ["state/_METADATA", "state/manifest.ocdbt", "state/d", "source/_METADATA"]
)
def test_a_failed_restore_leaves_the_process_as_it_was(unchanged, saved, name, capfd):
    """Damage that Orbax finds: the digests are those of the damaged files."""
    workdir, _, *like = saved
    folder = workdir / "checkpoints" / "2"
    path = largest(folder / name) if (folder / name).is_dir() else folder / name
    os.truncate(path, path.stat().st_size // 2)
    integrity.seal(folder)
    if name.startswith("state"):  # the cursor is read by a resume alone
        match = "damaged.*; step 1 is whole: use that one"
        with pytest.raises(checkpoint.CheckpointError, match=match):
            checkpoint.read(workdir, *like)
    match = "step 1 is whole: move that folder away to go on from it"
    with pytest.raises(checkpoint.CheckpointError, match=match):
        with checkpoint.Checkpoints(workdir, keep=2) as checkpoints:
            checkpoints.restore(*like)
    assert not capfd.readouterr().err


def refusal(workdir, like):
    """The messages of the errors that resuming and reading raise."""
    with pytest.raises(checkpoint.CheckpointError) as resumed:
        with checkpoint.Checkpoints(workdir, keep=2) as checkpoints:
            checkpoints.restore(*like)
    with pytest.raises(checkpoint.CheckpointError) as read:
        checkpoint.read(workdir, *like)
    with pytest.raises(checkpoint.CheckpointError) as part:
        checkpoint.read_parts(workdir, {})
    texts = [str(caught.value) for caught in (resumed, read, part)]
    assert not any("\n" in text for text in texts)
    return texts


def test_the_digests_of_a_checkpoint_are_those_of_its_files(saved):
    folder = saved[0] / "checkpoints" / "2"
    done = subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=folder)
    assert done.returncode == 0
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names - set(read_sums(folder)) == set(integrity.LATER)


def test_one_flipped_bit_is_named_and_the_step_that_is_whole(saved):
    workdir, _, *like = saved
    path = largest(workdir / "checkpoints" / "2" / "state")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    resumed, read, part = refusal(workdir, like)
    name = path.relative_to(workdir / "checkpoints" / "2")
    assert f"checkpoints/2 is damaged ({name} is not what was written, by" in resumed
    assert "step 1 is whole: move that folder away to go on from it" in resumed
    assert "step 1 is whole: use that one" in read and read == part
    os.truncate(largest(workdir / "checkpoints" / "1"), 10)
    assert "no older one is known to be whole" in refusal(workdir, like)[0]
    assert checkpoint.steps_in(workdir / "checkpoints") == [1, 2]


def test_lost_files_and_lost_digests_are_named(saved):
    workdir, _, *like = saved
    folder = workdir / "checkpoints" / "2"
    (folder / SUMS).rename(workdir / SUMS)
    assert all(f"damaged ({SUMS} is missing)" in x for x in refusal(workdir, like))
    (folder / SUMS).write_text("no digests")
    assert all(f"damaged ({SUMS} is damaged)" in x for x in refusal(workdir, like))
    (workdir / SUMS).rename(folder / SUMS)
    (folder / "state" / "manifest.ocdbt").unlink()
    words = "damaged (state/manifest.ocdbt: no such file or directory)"
    assert all(words in x for x in refusal(workdir, like))


def test_a_checkpoint_of_an_older_version_is_read_and_said_to_be_unverified(
    saved, capfd
):
    workdir, state, *like = saved
    folder = workdir / "checkpoints" / "2"
    (folder / SUMS).unlink()
    about = json.loads((folder / integrity.METADATA).read_text())
    about["custom_metadata"] = {}
    (folder / integrity.METADATA).write_text(json.dumps(about))
    restored = checkpoint.read(workdir, *like)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert capfd.readouterr().out == (
        f"{folder} is not verified: it has no {SUMS}, as an older version wrote it\n"
    )


def test_a_copied_or_renamed_checkpoint_is_refused(saved):
    workdir, _, *like = saved
    folder = workdir / "checkpoints"
    for name in ("007", "2_copy", "3.bak"):  # not names of steps
        shutil.copytree(folder / "2", folder / name)
    (folder / "12").write_text("a file")
    assert checkpoint.steps_in(folder) == [1, 2]
    checkpoint.read(workdir, *like)
    shutil.copytree(folder / "2", folder / "99")
    words = (
        f"{folder}/99 holds step 2, so it was copied or renamed; move it away, or give it "
        "the name 2"
    )
    assert all(words in text for text in refusal(workdir, like))
    shutil.rmtree(folder / "99" / "state")
    assert all("99 is damaged (state/" in text for text in refusal(workdir, like))
    shutil.rmtree(folder / "99")
    (folder / "99").mkdir()
    assert all("99 is damaged (" in text for text in refusal(workdir, like))
    (folder / "99").rename(workdir / "99")
    (folder / "2").rename(folder / "final")  # no step is claimed
    checkpoint.read(folder / "final", *like)


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
            stack.enter_context(quiet_orbax())
        assert log_all() == ["core/train.py"]
        raise RuntimeError
    assert len(log_all()) == 3


def test_a_checkpoint_that_is_removed_while_it_is_read(saved, monkeypatch):
    workdir, _, *like = saved

    def removed(folder):
        shutil.rmtree(folder)
        return "state/manifest.ocdbt: no such file or directory"

    monkeypatch.setattr(integrity, "damage", removed)
    match = (
        "checkpoints/2 was removed while it was read, as a training removes its oldest"
    )
    with pytest.raises(checkpoint.CheckpointError, match=match):
        checkpoint.read(workdir, *like)
