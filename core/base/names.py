"""Look-ups by name that name the nearest known one in their error."""

import difflib


def choose(names, table: dict, kind: str) -> dict:
    """The entries of `table` by name, all if none is named; an unknown name is told."""
    for name in names:
        if name not in table:
            near = difflib.get_close_matches(name, table, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"there is no {kind} {name!r}{hint}; there are {', '.join(sorted(table))}"
            )
    return {name: table[name] for name in names or table}
