"""Why a file cannot be read, in words that name the file and the remedy."""

import os
import pathlib

LFS_START = b"version https://git-lfs.github.com/spec/v1"
PARQUET = b"PAR1"  # first and last bytes of a Parquet file
HEAD = 512  # bytes from which most damage is seen


def explain_file(path, error: object) -> str:
    """One sentence on a file that cannot be read. error: what its reader said."""
    return f"{path} {known_damage(path) or f'cannot be read: {error}'}"


def known_damage(path, what: str = "file") -> str:
    """What is wrong with a file, if that can be seen from outside; else "".

    what: the content that was expected.
    """
    path = pathlib.Path(path)
    if not os.path.exists(path):
        return (
            "is a link to a file that does not exist; fetch that file"
            if os.path.islink(path)
            else "does not exist; download the data set again"
        )
    if path.is_dir():
        return "is a folder; expected a file"
    if not path.is_file():
        return ""  # a pipe would be waited for
    try:
        with open(path, "rb") as file:
            damage = damage_of_head(file.read(HEAD), what)
        if not damage and path.suffix == ".parquet":
            damage = parquet_damage(path)
    except OSError:
        return ""  # the error of the reader says why
    return damage


def damage_of_head(head: bytes, what: str = "file") -> str:
    """What is wrong with a file, by its first bytes; else ""."""
    if not head:
        return "is empty; download it again"
    if head.startswith(LFS_START):
        return f"is a git-LFS pointer, not the {what}; fetch it with git lfs pull"
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
