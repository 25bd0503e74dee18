"""Look-ups by name; errors suggest the nearest known name."""

import difflib
from collections.abc import Iterable


def choose(names, table: dict, kind: str) -> dict:
    """The entries of `table` with these names; all entries if `names` is empty.

    kind: what an entry is, for the error. Raises ValueError on an unknown name.
    """
    for name in names:
        if name not in table:
            raise ValueError(
                f"there is no {kind} {name!r}{nearest(name, table)}; "
                f"there are {', '.join(sorted(table))}"
            )
    return {name: table[name] for name in names or table}


def nearest(name: str, known: Iterable[str], *, count: int = 1, prefix="") -> str:
    """A hint to put after a wrong name in an error: " (did you mean 'x'?)".

    Suggests up to `count` similar entries of `known`, each with `prefix` before it. Empty
    if none is similar.
    """
    names = difflib.get_close_matches(name, list(known), count)
    hints = " or ".join(repr(prefix + x) for x in names)
    return f" (did you mean {hints}?)" if hints else ""
