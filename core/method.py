"""The contract between a method and the rest: five pure pieces, found by name."""

import contextlib
import difflib
import importlib
import re
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from core.platforms import settled

UNKNOWN = re.compile(r"got an unexpected keyword argument '(\w+)'")
TWICE = re.compile(r"got multiple values for (?:keyword )?argument '(\w+)'")
ABSENT = re.compile(r"missing \d+ required .*arguments?: (.*)")


class Method(NamedTuple):
    """All that the train loop, the evaluator and the exporter know of a method.

    init: key -> State, arrays boxed with their logical axis names.
    step: (state, batch) -> (state, metrics); jitted by the loop, state donated. State and
      metrics hold `bad_steps`, the number of updates in a row that were not applied.
    source: (split, shard, folder) -> object with next(state) -> batch, get_state(),
      set_state(s), report(), close(); shard is (index, count) of this host's part of the
      batch; a source that gathers data keeps it in the run's folder. A report is {"bad":
      how many samples were replaced, "new": [one dict of each of the latest], "numbers":
      {what else to log}}.
    evals: name -> function of the state giving findings by name: a number, a uint8
      picture, or a list of sentences for the terminal.
    exports: format -> function of (state, folder, origin) that writes a whole artefact
      there and returns its largest difference from the live networks.
    benches: name -> function giving numbers of what else there is to time.
    draw: batch -> uint8 picture [H, W, 3] of what the step is given.
    acts: whether the source needs the newest parameters, so that it waits for updates.
    flops: useful floating point operations of one step, for utilisation.
    recomputed: those that are done a second time to save memory, besides.
    needs: fields of the state that evaluations and exports read; all where none is named.
    gathers: field of the state -> how often a step gathers the weights of its layers.
    shares: mesh -> {axis: bytes that a device has to send along it for tokens}.
    batch: examples of one step over all hosts.
    unit: what an example is called on the progress line.
    """

    init: Callable
    step: Callable
    source: Callable
    evals: dict
    exports: dict
    flops: float
    batch: int
    unit: str = "examples"
    benches: dict = {}
    recomputed: float = 0.0
    needs: tuple[str, ...] = ()
    gathers: dict = {}
    shares: Callable = lambda mesh: {}
    draw: Callable | None = None
    acts: bool = False


def load(config, platform: str | None = None) -> Method:
    """Import the module that `config.method` names and let it read the config.

    platform: what is to compute it, "cpu", "gpu" or "tpu"; what is here by default.
    """
    try:
        module = importlib.import_module(config.method)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"method {config.method!r} is no module here: {error}"
        ) from None
    if not hasattr(module, "make"):
        raise ValueError(f"method {config.method!r} has no make(config)")
    platform = platform or jax.default_backend()
    try:
        return module.make(ConfigDict(settled(config.to_dict(), platform)))
    except (TypeError, KeyError) as error:
        mistake = explain(error, config.to_dict())
        if mistake is None:
            raise
        raise ValueError(mistake) from error


def explain(error: Exception, config: dict) -> str | None:
    """What is wrong with a section's fields, from the error of who took them; else None.

    Sections become keyword arguments, so a mistyped field is a TypeError there.
    """
    text = str(error)
    if isinstance(error, KeyError):
        name = error.args[0]
        absent = isinstance(name, str) and name not in config
        return f"config has no field {name!r} where it is needed" if absent else None
    if found := UNKNOWN.search(text):
        where = " or ".join(places(found[1], config))
        return f"config has an unknown field {where}: {text}" if where else None
    if found := TWICE.search(text):
        where = " or ".join(places(found[1], config))
        return f"config sets {where}, which its method sets itself" if where else None
    if found := ABSENT.search(text):
        return f"config lacks the field {found[1]}: {text}"
    return None


def places(name: str, section: dict, prefix: str = ""):
    """Where a field of this name stands in nested sections, as "section.field"."""
    for key, value in section.items():
        if key == name:
            yield prefix + key
        if isinstance(value, dict):
            yield from places(name, value, f"{prefix}{key}.")


@contextlib.contextmanager
def opened(method: Method, shard=(0, 1)):
    """The method's source of training batches, in a folder for as long as it is open."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(method.source("train", shard, folder)) as source,
    ):
        yield source


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


def by_kind(findings: dict) -> tuple[dict, dict, dict]:
    """What an evaluation found, apart: numbers, pictures, lists of sentences."""
    numbers, pictures, sentences = {}, {}, {}
    for name, value in findings.items():
        if isinstance(value, list):
            sentences[name] = value
        elif isinstance(value, np.ndarray) and value.ndim:
            pictures[name] = value
        else:
            numbers[name] = float(value)
    return numbers, pictures, sentences
