"""The contract between a method and the rest: five pure pieces, found by name."""

import importlib
from collections.abc import Callable
from typing import NamedTuple


class Method(NamedTuple):
    """All that the train loop, the evaluator and the exporter know of a method.

    init: key -> State, arrays boxed with their logical axis names.
    step: (state, batch) -> (state, metrics); jitted by the loop, state donated. State and
      metrics hold `bad_steps`, the number of updates in a row that were not applied.
    source: (split, shard) -> object with next(state) -> batch, get_state(), set_state(s),
      report(), close(); shard is (index, count) of this host's part of the batch.
    evals: name -> function of the state giving findings by name: a number, a uint8
      picture, or a list of sentences for the terminal.
    exports: name -> function of the state giving (pure function of (params, inputs),
      params, input specs).
    flops: useful floating point operations of one step, for utilisation.
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


def load(config) -> Method:
    """Import the module that `config.method` names and let it read the config."""
    try:
        module = importlib.import_module(config.method)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"method {config.method!r} is no module here: {error}"
        ) from None
    if not hasattr(module, "make"):
        raise ValueError(f"method {config.method!r} has no make(config)")
    return module.make(config)
