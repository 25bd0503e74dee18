"""Features of clips in memory, for a trained encoder and its baselines."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from core.evals.extract import Features, start_encoding
from core.evals.progress import watched
from core.method import Frozen, Watch

BATCH = 32  # clips that are encoded at once


def encoders_of(
    frozen: Frozen, names: Mapping[str, str], state: Any
) -> Iterator[tuple[str, Callable]]:
    """(name, compiled function of uint8 clips) of some encoders.

    names: name in the findings -> name in `frozen.weights`.
    """
    encode = jax.jit(frozen.encode)
    for name, weights in names.items():
        yield name, functools.partial(encode, frozen.weights[weights](state))


def features_in_memory(
    encode: Callable, videos: np.ndarray, watch: Watch, what: str
) -> Features:
    """Features of uint8 clips [n, T, H, W, 3]. Raises Stopped."""
    starts = watched(range(0, len(videos), BATCH), f"{what}: parts", watch)
    found = [start_encoding(encode, videos[i : i + BATCH, None, None], BATCH)()
             for i in starts]  # fmt: skip
    return Features(np.concatenate(found), np.arange(len(videos)), {})
