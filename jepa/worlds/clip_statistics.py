"""Mean and deviation of the actions and states of clips, which are kept in a state."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from core.data.records import explain

WINDOWS = 256  # that statistics are taken over


class ClipStatistics:
    """Mean and deviation of numbers of clips, read when first asked for.

    steps: name of an array -> environment steps that lie side by side in its last axis, such
    as {"action": skip}.
    """

    def __init__(self, records, steps: Mapping[str, int]):
        self.records, self.steps = records, steps

    def width(self, name: str) -> int:
        """Numbers of one environment step."""
        return self.first[name].shape[-1] // self.steps[name]

    @functools.cached_property
    def first(self) -> dict:
        """The first clip that can be read; raises ValueError if none of eight can."""
        why = ""
        for index in range(min(len(self.records), 8)):
            try:
                return self.records.load(index, np.random.default_rng(index))
            except Exception as error:  # noqa: BLE001, the pipeline reports them
                why = why or f"{self.records.name(index)} {explain(error)}"
        raise ValueError(f"no clip can be read of the first records: {why}")

    @functools.cached_property
    def numbers(self) -> dict[str, dict[str, np.ndarray]]:
        """name -> {"mean", "std"}: float32 [width]; 1 in place of a constant's deviation."""
        found = {name: [] for name in self.steps}
        places = np.linspace(0, len(self.records) - 1, WINDOWS).astype(np.int64)
        for seed, index in enumerate(places):
            try:
                clip = self.records.load(int(index), np.random.default_rng(seed))
            except Exception:  # noqa: BLE001, the pipeline reports them
                continue
            for name, rows in found.items():
                rows.append(clip[name].reshape(-1, self.width(name)))
        return {
            name: moments(rows or [self.first[name].reshape(-1, self.width(name))])
            for name, rows in found.items()
        }


def moments(rows) -> dict[str, np.ndarray]:
    """{"mean", "std"} of arrays [n, width], without the numbers that are NaN."""
    x = np.concatenate(rows).astype(np.float64)
    mean, std = np.nanmean(x, 0), np.nanstd(x, 0)
    return {
        "mean": mean.astype(np.float32),
        "std": np.where(std > 1e-6, std, 1).astype(np.float32),
    }


def normalized(x, known: dict, steps: int = 1):
    """Arrays [..., steps W] in units of the data -> normalized; 0 where they are NaN.

    known: {"mean", "std"} of the numbers of a step [W]. NaN stands for actions that were not
    taken, such as after the end of an episode.
    """
    mean, std = (jnp.tile(known[name], steps) for name in ("mean", "std"))
    return jnp.nan_to_num((x - mean) / std, nan=0.0)
