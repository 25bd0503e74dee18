"""Whether a checkpoint's folder is what was written: its digests, and the step it is named by.

Before a checkpoint gets its name, process 0 writes STEP/SHA256SUMS: the digests of all files
that are final by then. Older checkpoints have none.
"""

import json
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from core.base.buckets import is_bucket, names_below
from core.base.digests import SUMS, find_damage, read_sums, write_sums

# What the checkpoint's own metadata says, so that a lost SHA256SUMS is noticed.
MARK = {"digests": SUMS}
METADATA = "_CHECKPOINT_METADATA"
# Written after the digests, and not needed to read the arrays.
LATER = (METADATA, "commit_success.txt", SUMS)


def seal(folder: pathlib.Path):
    """Write the digests of a checkpoint whose files are final, except those of LATER."""
    write_sums(folder, {*files_in(folder)} - {*LATER})


def files_in(folder: pathlib.Path) -> list[str]:
    """All files below a folder, relative to it; the folder may be in a bucket."""
    if is_bucket(folder):
        return names_below(folder)
    paths = (p for p in folder.rglob("*") if p.is_file())
    return [p.relative_to(folder).as_posix() for p in paths]


def damage(folder: pathlib.Path) -> str:
    """What is wrong with the files of a checkpoint by its digests; "" if nothing is.

    Says so where there are no digests to compare with. Every process compares a share of
    the files, and all get an answer if one finds damage: all must call this.
    """
    index, count = jax.process_index(), jax.process_count()
    try:
        sums = expected_sums(folder)
        share = sorted(sums)[index::count]
        found = find_damage(folder, {name: sums[name] for name in share})
        if not sums and index == 0:
            print(
                f"{folder} is not verified: it has no {SUMS}, as an older version wrote it",
                flush=True,
            )
    except ValueError as error:
        found = str(error)
    if count > 1:
        bad = multihost_utils.process_allgather(np.array(bool(found)))
        if bad.any() and not found:
            found = f"found by process {bad.argmax()}"
    return found


def expected_sums(folder: pathlib.Path) -> dict[str, str]:
    """Path -> digest; empty for older checkpoints. Raises ValueError if they are lost."""
    sums = read_sums(folder)
    if not sums and marked(folder):
        raise ValueError(f"{SUMS} is missing")
    return sums


def marked(folder: pathlib.Path) -> bool:
    """Whether the checkpoint's own metadata says that it has digests."""
    try:
        return json.loads((folder / METADATA).read_text())["custom_metadata"] == MARK
    except (OSError, ValueError, KeyError, TypeError):
        return False


def began(folder: pathlib.Path) -> float:
    """When the write of a checkpoint began, in seconds since 1970.

    That of the folder itself where the checkpoint's own metadata does not say it.
    """
    try:
        return json.loads((folder / METADATA).read_text())["init_timestamp_nsecs"] / 1e9
    except (OSError, ValueError, KeyError, TypeError):
        return folder.stat().st_mtime if folder.exists() else 0.0


def newest_whole(folder: pathlib.Path, steps) -> int | None:
    """The last of `steps` that has digests and no damage. Process-local, so it may be slow."""
    for step in sorted(steps, reverse=True):
        try:
            sums = expected_sums(folder / str(step))
        except ValueError:
            continue
        if sums and not find_damage(folder / str(step), sums):
            return step
    return None


def wrong_step(folder: pathlib.Path, step) -> str:
    """Why a state of `step` cannot be that of a folder named by a step; "" if it can."""
    if not is_step(folder.name) or int(folder.name) == int(step):
        return ""
    return (
        f"checkpoint {folder} holds step {int(step)}, so it was copied or renamed; move it "
        f"away, or give it the name {int(step)}"
    )


def is_step(name: str) -> bool:
    """Whether a folder's name is that of a step: 0, 7, 120; not 007."""
    return name.isascii() and name.isdigit() and name == str(int(name))
