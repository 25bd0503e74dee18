"""Why a file cannot be read, in words that name the file and the remedy."""

import os
import pathlib

from core.base.files import lfs_pointer

PARQUET = b"PAR1"  # first and last bytes of a Parquet file


def explain_file(path, error: object) -> str:
    """One sentence on a file that cannot be read. error: what its reader said."""
    return f"{path} {known_damage(path) or f'cannot be read: {error}'}"


def known_damage(path) -> str:
    """What is wrong with a file, if that can be seen from outside; else ""."""
    path = pathlib.Path(path)
    if not path.exists():
        is_link = os.path.islink(path)
        return (
            "is a link to a file that does not exist; fetch that file"
            if is_link
            else "does not exist; download the data set again"
        )
    if path.is_dir():
        return "is a folder; expected a file"
    try:
        if lfs_pointer(path):
            return "is a git-LFS pointer, not the file; fetch it with git lfs pull"
        if not path.stat().st_size:
            return "is empty; download it again"
        if path.suffix == ".parquet":
            return parquet_damage(path)
    except OSError:
        pass  # the error of the reader says why
    return ""


def parquet_damage(path) -> str:
    """Whether a Parquet file lacks its footer, which is written last."""
    with open(path, "rb") as file:
        begins = file.read(len(PARQUET)) == PARQUET
        file.seek(-len(PARQUET), os.SEEK_END)
        ends = file.read() == PARQUET
    if begins and not ends:
        return (
            "has no footer: it is cut, or its recording was not finished (finalize() of "
            "LeRobot); download or record it again"
        )
    return "" if begins else "is no Parquet file; download it again"
