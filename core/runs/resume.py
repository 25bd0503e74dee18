"""Resumes a run from a checkpoint that is whole; those in its way are set aside."""

from collections.abc import Callable

from core.runs.checkpoint import CheckpointError, Checkpoints, Damaged, steps_in


def resume(
    checkpoints: Checkpoints,
    shapes,
    layouts,
    *,
    step: int | None = None,
    say: Callable[[str], None],
):
    """(state, cursor) of `step`, or of the newest checkpoint that is whole if None.

    Damaged checkpoints, and those after `step`, are moved to FOLDER/set_aside, so that the
    run can write these steps again. say: told what is moved and why.

    Raises CheckpointError if there is no such step, or no checkpoint is whole.
    """
    if step is not None:
        there = steps_in(checkpoints.folder)
        if step not in there:
            raise CheckpointError(
                f"--restore_step is {step}, but {checkpoints.folder} holds {there}"
            )
        for later in (n for n in there if n > step):
            say(f"step {later} is set aside in {checkpoints.set_aside(later)}")
        return checkpoints.restore(shapes, layouts)
    while True:
        newest = checkpoints.latest()
        try:
            return checkpoints.restore(shapes, layouts)
        except Damaged as error:
            if error.whole is None or newest is None:
                raise
            place = checkpoints.set_aside(newest)
            say(
                f"checkpoint {checkpoints.folder / str(newest)} is damaged ({error.why}) "
                f"and set aside in {place}; going on from an earlier one"
            )
