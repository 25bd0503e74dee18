"""Clips of the embedded world stacked into arrays."""

from collections.abc import Iterable

import numpy as np


def stack_clips(records, rows: Iterable[int]) -> dict[str, np.ndarray]:
    """Records by name: [n, ...] each."""
    items = [records.load(row) for row in rows]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
