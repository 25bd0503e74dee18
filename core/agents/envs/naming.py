"""What is said of tasks that cannot be had: unknown names, absent packages."""

import difflib
import importlib


def package(name: str, *, suite: str):
    """The module of that name, which an optional package brings."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name.split(".")[0]
        raise ValueError(
            f"{suite} tasks need the package {missing}; "
            "run pip install -r requirements-envs.txt"
        ) from error


def unknown(what: str, name: str, names) -> ValueError:
    """The error for a name that is none of `names`; it tells the nearest."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, cutoff=0.4) or names[:8]
    return ValueError(f"{name!r} is no {what}; nearest: {', '.join(near)}")
