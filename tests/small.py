"""Presets made smaller still, for tests that train, and the command that trains them."""

import functools
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

from ml_collections import ConfigDict

from configs import dreamer, jepa

# Programs are compiled in a third of the time. XLA exits on a flag that it does not know.
QUICK = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
ROOT = pathlib.Path(__file__).parents[1]


def changed(config, changes: dict, **fields):
    """A config with other values: nested ones, then fields as section__field=value."""
    config.update(changes)
    fields = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict(fields)
    return config


def small(**fields):
    """V-JEPA in a few seconds; fields are written section__field=value."""
    config = jepa.get_config("tiny")
    changes = {
        "batch": 8,
        "held_batch": 4,
        "steps": 4,
        "log_steps": 1,
        "save_steps": 2,
        "data": {"frames": 4, "workers": 0},
        "predictor": {"width": 48, "depth": 1},
        "eval_steps": dict.fromkeys(config.eval_steps, -1),
        "probe": {"train_clips": 8, "held_clips": 4, "steps": 2, "batch": 4},
        "physical": {"train_clips": 48, "held_clips": 48, "steps": 2, "pairs": 8},
        "mesh": {"data": 1, "fsdp": 1},
    }
    return changed(config, changes, **fields)


def dream(**fields):
    """Dreamer in a few seconds, likewise."""
    changes = {
        "batch": 8,
        "length": 4,
        "chunks": 2,
        "steps": 4,
        "log_steps": 1,
        "save_steps": 2,
        "data": {"workers": 0, "size": 48},
        "model": {
            "deter": 16,
            "hidden": 8,
            "classes": 4,
            "depth": 2,
            "units": 8,
            "stoch": 4,
        },
        "dream": {"steps": 8, "clips": 4, "read_clips": 8, "read_steps": 5},
        "eval_steps": {"dream": -1},
        "mesh": {"data": 1, "fsdp": 1},
    }
    return changed(dreamer.get_config("tiny"), changes, **fields)


def steady(*, lr=1e-3, **fields):
    """Without schedules, so that runs of any length share one compiled program."""
    config = small(**fields)
    config.optimizer.lr = ConfigDict({"kind": "constant", "value": lr})
    config.optimizer.momentum = ConfigDict({"kind": "constant", "value": 0.99})
    return config


def use_one_device(patch) -> None:
    """Let every mesh of whole runs be one device; `patch` is a pytest.MonkeyPatch."""
    import jax

    from core import program, train
    from core.evals import evaluate
    from core.parallel import mesh
    from core.perf import bench

    one = functools.partial(mesh.make_mesh, devices=jax.devices()[:1])
    for module in (mesh, train, program, evaluate, bench):
        patch.setattr(module, "make_mesh", one)


TINY = "configs/jepa.py:tiny"


def start(config, workdir, *flags, preset=TINY, **options) -> subprocess.Popen:
    """`python -m launch.train` on this config, in a process group and with one device."""
    from core.runs.run_folder import flatten
    from launch.config import load

    now, before = flatten(config.to_dict()), flatten(load(f"{ROOT}/{preset}").to_dict())
    changed = [f"--config.{k}={v}" for k, v in now.items() if v != before[k]]
    environment = os.environ | {"XLA_FLAGS": QUICK}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "launch.train", f"--config={preset}"),
            *changed,
            f"--workdir={workdir}",
            *flags,
        ],
        **{"cwd": ROOT, "env": environment, "start_new_session": True}
        | pipes
        | options,
    )


def record(folder) -> dict:
    """What a run wrote that must not depend on interruptions or the machine."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line).items() for line in lines]
    bad = folder / "bad_samples.jsonl"
    return {
        "metrics": [{k: v for k, v in x if not k.startswith("time/")} for x in lines],
        "bad_samples": bad.read_text() if bad.exists() else "",
        "summary": json.loads((folder / "summary.json").read_text()),
    }
