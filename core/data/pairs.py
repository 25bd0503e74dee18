"""Tables of possible and impossible videos by scene, as IntPhys 2 (arXiv 2506.09849) has."""

from typing import NamedTuple

from core.base.places import expand_home
from core.base.text import printable_name
from core.data.files.file_lists import listed_path
from core.data.labelled_tables import check_videos_exist, csv_columns, parquet_columns

COLUMNS = ("path", "scene", "possible")
VALUES = {"1": True, "true": True, "possible": True}
VALUES |= {"0": False, "false": False, "impossible": False}


class Scenes(NamedTuple):
    """Videos in the order of the table.

    paths: relative to root, or addresses. scenes: of each. possible: whether each is.
    """

    root: str
    paths: tuple[str, ...]
    scenes: tuple[str, ...]
    possible: tuple[bool, ...]


def read_pairs(place: str) -> Scenes:
    """The videos of a CSV or Parquet table with the columns path, scene and possible.

    possible: 1 or 0, true or false, possible or impossible. Paths are relative to the
    table. Raises ValueError if a column or a value is missing, a scene lacks one of the two
    kinds, or videos do not exist.
    """
    path = expand_home(place)
    if not path.is_file():
        raise ValueError(
            f"{printable_name(place)} is no file; expected a CSV or Parquet table with the "
            f"columns {', '.join(COLUMNS)}"
        )
    parquet = path.suffix == ".parquet"
    columns = parquet_columns(path, COLUMNS) if parquet else csv_columns(path)
    for name in COLUMNS:
        if name not in columns:
            raise ValueError(
                f"{place} has the columns {', '.join(columns)}; expected {name!r} among "
                "them"
            )
    found = []
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    for number, (name, scene, word) in enumerate(rows, 1):
        kind = VALUES.get(str(word).strip().lower())
        if kind is None or name in (None, "") or scene in (None, ""):
            raise ValueError(
                f"{place} row {number} has path {name!r}, scene {scene!r} and possible "
                f"{word!r}; expected a video, a name, and one of {', '.join(VALUES)}"
            )
        found.append((listed_path(path.parent, str(name)), str(scene).strip(), kind))
    for scene in dict.fromkeys(scene for _, scene, _ in found):
        kinds = {kind for _, other, kind in found if other == scene}
        if len(kinds) < 2:
            lacks = "impossible" if True in kinds else "possible"
            raise ValueError(
                f"{place}: scene {scene} has no {lacks} video; expected both kinds"
            )
    if not found:
        raise ValueError(f"{place} has no rows")
    paths, scenes, possible = zip(*found, strict=True)
    check_videos_exist(place, path.parent, paths)
    return Scenes(str(path.parent), paths, scenes, possible)
