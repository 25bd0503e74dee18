"""A command beside a running training waits for its checkpoint."""

import threading
import time

import pytest

from core.runs import restore, run_folder


def test_only_a_training_holds_the_lock(tmp_path):
    assert not run_folder.is_training(tmp_path)
    with run_folder.hold_lock(tmp_path):
        assert run_folder.is_training(tmp_path)
        with pytest.raises(ValueError, match="another process is training in"):
            with run_folder.hold_lock(tmp_path):
                pass
    assert not run_folder.is_training(tmp_path)


@pytest.mark.parametrize("step", [None, 7])
def test_a_checkpoint_that_comes_while_the_run_trains_is_waited_for(
    step, tmp_path, capfd
):
    place = tmp_path / "checkpoints"
    (place / "7.orbax-checkpoint-tmp").mkdir(parents=True)

    def save():
        time.sleep(0.1)
        (place / "7.orbax-checkpoint-tmp").rename(place / "7")

    with run_folder.hold_lock(tmp_path):
        saving = threading.Thread(target=save)
        saving.start()
        restore.wait_for(tmp_path, step, 0.3)
        saving.join()
    assert restore.find_checkpoint(place, step) == place / "7"
    what = "its first checkpoint" if step is None else "its step 7"
    assert capfd.readouterr().out == (
        f"{tmp_path} is training: waiting for {what}, up to 0.3 s (--wait_s)\n"
    )


def test_what_cannot_come_is_not_waited_for(tmp_path, capfd):
    begin = time.monotonic()
    restore.wait_for(tmp_path, None, 60)  # no training
    with run_folder.hold_lock(tmp_path):
        restore.wait_for(tmp_path, None, 0)
        (tmp_path / "checkpoints" / "9").mkdir(parents=True)
        restore.wait_for(tmp_path, None, 60)
        restore.wait_for(tmp_path, 7, 60)  # the training is beyond it
    assert time.monotonic() - begin < 30 and not capfd.readouterr().out
