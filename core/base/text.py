"""Errors, numbers and durations as text for people."""

import math


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
