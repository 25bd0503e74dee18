"""Places that users name: `~` is the home folder, and buckets are not folders."""

import os
import pathlib
import re

ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]+:/.*", re.IGNORECASE
)  # gs://bucket, s3://bucket


def expand_home(place) -> pathlib.Path:
    """A path with `~` or `~USER` at its beginning replaced by that home folder.

    Raises ValueError if there is no such home, as in a container without a user.
    """
    text = os.path.expanduser(place)
    if str(text).startswith("~"):
        raise ValueError(
            f"{place} begins with '~', but there is no such home folder (HOME is not set "
            "and the user has no entry); write the whole path"
        )
    return pathlib.Path(text)


def local_folder(place, *, what: str) -> pathlib.Path:
    """The absolute path of a folder that a run reads or writes, with `~` expanded.

    what: the flag or field that names it. Raises ValueError for addresses: only workdirs may
    be in buckets (core/runs/mirror.py).
    """
    if ADDRESS.fullmatch(str(place)):
        raise ValueError(
            f"{what} is {place}, an address; expected a folder: mount the bucket, for "
            "example with gcsfuse or mount-s3, and name the folder there"
        )
    return expand_home(place).absolute()
