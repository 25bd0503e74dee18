"""Names of arrays in other people's data sets -> names of core/data/episodes/steps.py.

An observation that is called like an array of the schema, such as "action" or "reward", is
kept as "observation_action"; so it never takes the place of the array of that name.
"""

import re
from collections.abc import Iterable

from core.data.episodes.steps import RESERVED

SEPARATORS = re.compile(r"[./]+")
FOLDERS = ("log", "model")  # of names such as log/x
TAKEN = "observation_"  # before the name of an observation that the schema reserves


def observation_name(name: str) -> str:
    """The array name of an observation: "images.top" or "images/top" -> "images_top".

    A name of RESERVED (core/data/episodes/steps.py) or FOLDERS gets a prefix: "reward" ->
    "observation_reward".
    """
    plain = SEPARATORS.sub("_", name)
    return f"{TAKEN}{plain}" if plain in (*RESERVED, *FOLDERS) else plain


def log_name(name: str) -> str:
    """The name of an array that is not trained on: "next.success" -> "log/next_success"."""
    return f"log/{SEPARATORS.sub('_', name.removeprefix('log/'))}"


def check_distinct(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{name in the data set: name of the array} of (name, name of the array) pairs.

    Raises ValueError, with both names, if two arrays of the data set get one name.
    """
    names: dict[str, str] = {}
    owner: dict[str, str] = {}
    for theirs, ours in pairs:
        if owner.setdefault(ours, theirs) != theirs:
            raise ValueError(
                f"has both {owner[ours]!r} and {theirs!r}, which would become one array "
                f"{ours!r}; rename or remove one of them"
            )
        names[theirs] = ours
    return names
