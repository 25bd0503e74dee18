"""Packages that are optional, and errors for unknown tasks of theirs."""

import difflib
import importlib


def package(name: str, *, suite: str):
    """The imported module `name` of an optional package.

    Raises ValueError, with the command that installs it, if the package is missing.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).split(".")[0]
        raise ValueError(
            f"{suite} tasks need the package {missing}; "
            "run pip install -r requirements-envs.txt"
        ) from error


def unknown(what: str, name: str, names) -> ValueError:
    """The error for a `name` that is not one of `names`, with the nearest ones."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, cutoff=0.4) or names[:8]
    return ValueError(f"{name!r} is no {what}; nearest: {', '.join(near)}")
