"""Paths, atomic JSON writes, OS error text and SHA-256 hashes."""

import hashlib
import json
import pathlib


def write_json(path, content):
    """Write JSON atomically: a reader sees the old file or the new one, never a part.

    Raises ValueError, with the path and the reason, if the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path, text: str):
    """Write text as `write_json` does; bytes of names that are not UTF-8 stay as they are."""
    path = pathlib.Path(path)
    part = path.with_suffix(".part")
    try:
        part.write_text(text, "utf-8", "surrogateescape")
        part.replace(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {os_error_text(error)}") from None


def read_json(path):
    """The content of a JSON file; raises ValueError with one sentence if there is none."""
    path = as_path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {os_error_text(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from None


def os_error_text(error: OSError) -> str:
    """The operating system's description, in lower case: "no space left on device"."""
    return (error.strerror or str(error)).lower()


def digest(source) -> str:
    """SHA-256 in hexadecimal. source: the path of a file, or bytes."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with as_path(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_path(place):
    """A path as it is, which may be one in a bucket; text as a path of this machine."""
    return place if hasattr(place, "read_text") else pathlib.Path(place)
