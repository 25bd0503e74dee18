"""The tiny preset made smaller still, for tests that train."""

import json
import sys

import numpy as np

from configs.jepa import get_config

# Of a 2 x 4 x 4 grid.
CELLS = {
    "short": {"context": 6, "target": 9},
    "long": {"context": 3, "target": 11},
}


def small(**fields):
    """A config of a few seconds; fields are "section.field" or "section__field"."""
    config = get_config("tiny")
    config.update(
        {
            "batch": 8,
            "held_batch": 4,
            "steps": 4,
            "log_steps": 1,
            "save_steps": 2,
            "data": {"frames": 4, "size": 32, "workers": 0},
            "predictor": {"width": 48, "depth": 1},
            "masks": {"patterns": CELLS},
            "eval_steps": dict.fromkeys(config.eval_steps, -1),
            "probe": {"train_clips": 8, "held_clips": 4, "steps": 2, "batch": 4},
            "mesh": {"data": 1, "fsdp": 1},
        }
    )
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def flags(config) -> list[str]:
    """The command line that turns the tiny preset into this config."""
    from core.run import flatten

    now, preset = flatten(config.to_dict()), flatten(get_config("tiny").to_dict())
    changed = [f"--config.{k}={v}" for k, v in now.items() if v != preset[k]]
    return ["--config=configs/jepa.py:tiny", *changed]
