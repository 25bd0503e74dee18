"""Buckets, gs:// and s3://: objects that are read, written whole, listed and removed.

The libraries are those that Orbax uses itself: etils.epath for paths, fsspec for objects.
"""

import contextlib
import re
from collections.abc import Iterator

from core.base.text import one_line

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
ADDRESS = re.compile(r"(gs|s3):/+([^/]+)(?:/+(.*?))?/*")


class BucketError(OSError):
    """A bucket cannot be read or written; the message is one sentence."""


def is_bucket(place) -> bool:
    """Whether a place is an address of a bucket that is supported: gs:// or s3://."""
    return ADDRESS.fullmatch(str(place)) is not None


def bucket_path(place, *, what: str):
    """The path of an address, with the methods of pathlib.Path (etils.epath.Path).

    what: the flag or field that names it. Raises ValueError if the package is missing.
    """
    from etils import epath

    protocol, bucket, inside = parts_of(place)
    file_system(place, what=what)
    return epath.Path("/".join(filter(None, (f"{protocol}://{bucket}", inside))))


def parts_of(place) -> tuple[str, str, str]:
    """("gs" or "s3", bucket, path inside, without slashes around)."""
    found = ADDRESS.fullmatch(str(place))
    assert found is not None, place
    return found[1], found[2], found[3] or ""


def file_system(place, *, what: str = "the workdir"):
    """The fsspec file system of an address. Raises ValueError if its package is missing.

    Listings are never kept: other machines write to the bucket, too.
    """
    import fsspec

    protocol = parts_of(place)[0]
    for name in ("gs", "gcs", "s3"):
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    try:
        return fsspec.filesystem(protocol)
    except ImportError:
        raise ValueError(
            f"{what} is {place}, which needs the package {PACKAGES[protocol]}: "
            "pip install -r requirements-cloud.txt"
        ) from None


@contextlib.contextmanager
def explained(place) -> Iterator[None]:
    """Turn what a file system raises into a BucketError; FileNotFoundError stays."""
    try:
        yield
    except (FileNotFoundError, BucketError):
        raise
    except Exception as error:
        text = one_line(error)[:160] or type(error).__name__
        raise BucketError(f"{place} cannot be reached: {text}") from error


def read(place) -> bytes:
    """The bytes of an object. Raises FileNotFoundError or BucketError."""
    with explained(place):
        return file_system(place).cat_file(str(place))


def write(place, data: bytes, *, new: bool = False) -> bool:
    """Write a whole object; readers see the old one or the new one.

    new: write it only if there is none; returns whether it was written. Raises BucketError.
    """
    with explained(place):
        try:
            mode = "create" if new else "overwrite"
            file_system(place).pipe_file(str(place), data, mode=mode)
        except FileExistsError:
            return False
        except FileNotFoundError:
            raise BucketError(f"{place} cannot be written: no such bucket") from None
        except Exception as error:
            if new and is_refusal(error):
                return False
            raise
    return True


def is_refusal(error: Exception) -> bool:
    """Whether a store refused to create an object since there is one: HTTP status 412."""
    response = getattr(error, "response", None)  # of botocore
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else ""
    return getattr(error, "code", code) in (412, "412", "PreconditionFailed")


def remove(place) -> None:
    """Remove an object that may be gone already. Raises BucketError."""
    with explained(place), contextlib.suppress(FileNotFoundError):
        file_system(place).rm_file(str(place))


def move(place, target) -> None:
    """Copy all objects below an address to another one, then remove them."""
    names, files = names_below(place), file_system(place)
    with explained(place):
        old = [f"{place}/{name}" for name in names]
        files.copy(old, [f"{target}/{name}" for name in names])
        files.rm(old)


def age(place, now: float) -> float:
    """Seconds since an object was written. Raises FileNotFoundError or BucketError."""
    with explained(place):
        return now - file_system(place).modified(str(place)).timestamp()


def names_below(place, *, without: tuple[str, ...] = ()) -> list[str]:
    """Objects below an address, relative to it. without: names in its first level."""
    files, (_, bucket, inside) = file_system(place), parts_of(place)
    root = "/".join(filter(None, (bucket, inside)))
    found = []
    with explained(place), contextlib.suppress(FileNotFoundError):
        for entry in files.ls(root, detail=True):
            name = entry["name"].removeprefix(root).strip("/")
            if not name or name in without:
                continue
            if entry["type"] == "directory":
                found += [x.removeprefix(f"{root}/") for x in files.find(entry["name"])]
            else:
                found.append(name)
    return sorted(name for name in found if not name.endswith("/"))
