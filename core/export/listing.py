"""Where exports came from, which were promoted, and whether they are still what was written."""

import pathlib
from collections.abc import Iterator

from core.base.files import digest, read_json
from core.export import artifacts
from core.export.verify import verify_export
from core.runs import lineage


def list_exports(folder: pathlib.Path) -> Iterator[str]:
    """A line per export of the run in `folder`, or of all runs below it, oldest first.

    Lines that cannot be read are named. Raises ValueError if no run has a lineage.
    """
    paths = sorted(folder.rglob(lineage.LINEAGE))
    if not paths:
        raise ValueError(
            f"{folder} holds no {lineage.LINEAGE}: nothing was evaluated or exported there"
        )
    for path in paths:
        for line in lineage.read(path):
            if isinstance(line, str):
                yield line
            elif line["kind"] == lineage.EXPORT:
                yield (
                    f"{line['artifact']}: from {line['checkpoint']}, {line['time']}, "
                    f"{promotion(line)}, {condition(line)}"
                )


def promotion(known) -> str:
    """ "promoted by ..." of a line or a provenance; "not promoted"."""
    promoted = known.get("promoted")
    return f"promoted by {' and '.join(promoted)}" if promoted else "not promoted"


def condition(line) -> str:
    """What an artifact is now, compared with what was exported."""
    folder = pathlib.Path(line["artifact"])
    if not folder.is_dir():
        return "no longer there"
    path = folder / artifacts.PROVENANCE
    if not path.is_file() or digest(path) != line["provenance"]:
        return "CHANGED: another artifact is there now"
    return content(folder)


def content(folder: pathlib.Path) -> str:
    """Whether the files of an export are those that its provenance records."""
    try:
        return f"unchanged: {verify_export(folder)}"
    except ValueError as error:
        return f"CHANGED: {error}"


def origin_lines(folder: pathlib.Path) -> Iterator[str]:
    """From which checkpoint an export came, by its own files alone.

    Raises ValueError if `folder` is no export.
    """
    artifacts.recorded_files(folder)
    known = read_json(folder / artifacts.PROVENANCE)
    about = known.get("exported", {})
    yield f"{folder}: {content(folder)}"
    yield f"checkpoint: {known.get('parent')}"
    yield f"digest of the checkpoint: {about.get('digest') or 'not recorded'}"
    yield f"exported: {known.get('started')}, code revision {known.get('revision')}"
    yield f"data: {', '.join(map(name_data, about.get('data', []))) or 'not recorded'}"
    yield promotion(known)
    for name, value in known.get("findings", {}).items():
        yield f"{name}: {value}"


def name_data(sha: str) -> str:
    """The digest of a data set, or what has none."""
    return sha or "computed"
