"""Errors, numbers, durations and file names as text for people."""

import math
import os
import re

ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def one_line(error: BaseException) -> str:
    """The message of an error on one line, without its type."""
    return " ".join(str(error).split())


def short(x: float) -> str:
    """A number with three significant digits: 0.412, 58.1, 12345, 3.1e-05, nan."""
    if not math.isfinite(x) or x == 0:
        return f"{x:g}"
    if not 1e-3 <= abs(x) < 1e6:
        return f"{x:.2g}"
    digits = 2 - math.floor(math.log10(abs(x)))
    return f"{x:.{max(digits, 0)}f}"


def duration(seconds: float) -> str:
    """Seconds as 0:07, 9:41, 1:02:03 or 3d 04:05:06; ?:?? if infinite or NaN."""
    if not math.isfinite(seconds):
        return "?:??"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02d}:{m:02d}:{s:02d}"
    return f"{h}:{m:02d}:{s:02d}" if h else f"{m}:{s:02d}"


def printable_name(path: str) -> str:
    r"""The name of a file as text that can be printed and stored as UTF-8.

    Bytes that are not UTF-8, control characters and backslashes become \xNN; all else is
    unchanged. `name_on_disk` gives the file's name again.
    """
    if path.isprintable() and "\\" not in path:  # nearly all names: ten times as fast
        return path
    text = (
        os.fsencode(path).replace(b"\\", b"\\x5c").decode("utf-8", "backslashreplace")
    )
    return "".join(
        c if ord(c) >= 32 and ord(c) != 127 else rf"\x{ord(c):02x}" for c in text
    )


def name_on_disk(text: str) -> str:
    """The file name that `printable_name` turned into `text`."""
    found = ESCAPE.sub(lambda x: bytes.fromhex(x[1].decode()), os.fsencode(text))
    return os.fsdecode(found)
