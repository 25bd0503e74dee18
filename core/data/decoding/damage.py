"""Why a video file cannot be read, in words that name the remedy."""

import io
import os

from core.base.unreadable import HEAD, damage_of_head, known_damage
from core.data.records import explain

MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"pnot")


def explain_unreadable(source, error: Exception) -> str:
    """The reason, at most 96 characters.

    source: a path, the bytes of a file, or a file that is open. error: what FFmpeg raised.
    """
    if isinstance(source, (str, os.PathLike)):
        if not os.path.lexists(source):
            return "No such file; it was moved or deleted, or the list is wrong"
        if damage := known_damage(source, "video"):
            return damage
        if not os.path.isfile(source):  # a pipe would be waited for
            return explain(error)
        try:
            with open(source, "rb") as file:
                return _explain_content(file) or explain(error)
        except OSError as second:
            return explain(second)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    return _explain_content(file) or explain(error)


def _explain_content(file) -> str:
    """A reason from the content of a file, or ""."""
    file.seek(0)
    head = file.read(HEAD)
    if damage := damage_of_head(head, "video"):
        return damage
    if head[4:8] in MP4_BOXES:
        return _explain_boxes(file)
    if head.isascii() and b"\0" not in head:
        return "is text, not a video; download or copy it again"
    return ""


def _explain_boxes(file) -> str:
    """A reason from the outermost boxes of an MP4 file, or "" if they are complete."""
    size = file.seek(0, os.SEEK_END)
    at, kinds = 0, set()
    while at < size:
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16])
        kinds.add(kind)
        if length < 8:  # 0: up to the end of the file
            break
        at += length
    if at > size:
        return (
            f"is cut: it has {size:,} of at least {at:,} bytes; copy or record it again"
        )
    if b"moov" not in kinds:
        return "has no index (moov box): recording was not finished; repair it or record again"
    return ""
