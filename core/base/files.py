"""Files that are whole or not there, what is told of them, and what tells them apart."""

import hashlib
import json
import pathlib


def write_json(path, content):
    """Write JSON so that a reader sees the old file or the new one, never half."""
    path = pathlib.Path(path)
    half = path.with_suffix(".part")
    try:
        half.write_text(json.dumps(content, indent=2) + "\n")
        half.replace(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {why(error)}") from None


def why(error: OSError) -> str:
    """The system's word for an error: "no space left on device"."""
    return (error.strerror or str(error)).lower()


def digest(source) -> str:
    """SHA-256 of a file, a path or its bytes, in hexadecimal."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
