"""Presets made smaller still, for tests that train, and the command that trains them."""

import functools
import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import sys

from ml_collections import ConfigDict

from configs import dreamer, jepa
from configs import lewm as lewm_configs
from configs import pldm as pldm_configs

# Programs are compiled in a quarter of the time: without optimization, and as one piece
# of code instead of many in parallel. XLA exits on a flag that it does not know.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
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
        "encoder": {"remat": "block"},  # a scan is traced and compiled in half the time
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


def lewm(**fields):
    """LeWorldModel in a few seconds, likewise."""
    changes = {
        "batch": 8,
        "steps": 4,
        "log_steps": 1,
        "save_steps": 2,
        "clip": {"skip": 2},
        "data": {"source": "two_rooms:40:16", "size": 16},
        "latent": {"width": 8, "hidden": 16},
        "action": {"smooth": 4, "hidden": 8},
        "predictor": {"width": 8, "depth": 1, "heads": 2, "head_dim": 4, "hidden": 16},
        "objective": {"slices": 16},
        "health": {"count": 8},
        "probe": {"train": 32, "validation": 16},
        "mesh": {"data": 1},
    }
    config = lewm_configs.get_config("two_rooms")
    config.encoder.channels = (4,)
    return changed(plan_little(config, "cem"), changes, **fields)


def plan_little(config, planner: str):
    """A config of a latent world model, that plans two problems with one planner."""
    settings = {"candidates": 4, "best": 2, "rounds": 1}
    config.plan.planners = ConfigDict({planner: settings})
    config.plan.exported = planner
    config.plan.tasks = {"near": {"offset": 8, "budget": 8}}
    config.eval_steps = dict.fromkeys(config.eval_steps, -1)
    config.optimizer.lr = ConfigDict({"kind": "constant", "value": 1e-3})
    little = {"problems": 2, "seeds": 1, "at_once": 1, "horizon": 2, "execute": 2}
    return changed(config, {"plan": little})


def pldm(**fields):
    """PLDM in a few seconds, likewise."""
    changes = {
        "batch": 8,
        "steps": 4,
        "log_steps": 1,
        "save_steps": 2,
        "clip": {"frames": 4, "skip": 2},
        "data": {"source": "two_rooms:40:16", "size": 16},
        "latent": {"width": 8},
        "inverse": {"hidden": 8},
        "objective": {"rollout": 3},
        "health": {"count": 8},
        "probe": {"train": 32, "validation": 16},
        "mesh": {"data": 1},
    }
    config = pldm_configs.get_config("two_rooms")
    impala = {"kind": "impala", "channels": (4, 4), "blocks": 1, "groups": 2}
    config.encoder = ConfigDict(impala)
    return changed(plan_little(config, "mppi"), changes, **fields)


def steady(*, lr=1e-3, **fields):
    """Without schedules, so that runs of any length share one compiled program."""
    config = small(**fields)
    config.optimizer.lr = ConfigDict({"kind": "constant", "value": lr})
    config.optimizer.momentum = ConfigDict({"kind": "constant", "value": 0.99})
    return config


def use_one_device(patch) -> None:
    """Let every mesh of whole runs be one device; `patch` is a pytest.MonkeyPatch."""
    use_devices(patch, 1)


def use_devices(patch, count: int) -> None:
    """Let every mesh of whole runs have the first `count` devices."""
    import jax

    from core import program, train
    from core.evals import evaluate
    from core.parallel import mesh
    from core.perf import bench

    usual, first = mesh.make_mesh, jax.devices()[:count]

    def make_mesh(*, devices=None, **axes):
        return usual(devices=devices or first, **axes)

    for module in (mesh, train, program, evaluate, bench):
        patch.setattr(module, "make_mesh", make_mesh)


def drawn_state(method, seed: int = 0):
    """A state with random params and target and zeros elsewhere; nothing is compiled."""
    import jax
    import numpy as np

    from core.parallel.layouts import unbox

    rng = np.random.default_rng(seed)
    shapes = unbox(jax.eval_shape(method.init, jax.random.key(0)))
    draw = lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype)  # noqa: E731
    zero = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    names = [name for name in ("params", "target") if hasattr(zero, name)]
    return zero.replace(
        **{name: jax.tree.map(draw, getattr(shapes, name)) for name in names}
    )


def run_on(config, axes: dict, steps: int, start=None):
    """(states, metrics, program) of a run on the first devices, without the loop.

    states: before the first step and after each, on the host but for the last one.
    start: the first state, such as that of a run on another mesh; by default it is created
    here, which takes a third of the time.
    """
    import jax

    from core.config import load_method
    from core.parallel import batches, mesh
    from core.program import build_program

    method = load_method(config)
    devices = jax.devices()[: math.prod(axes.values())]
    place = mesh.make_mesh(devices=devices, **axes)
    program = build_program(method, place, seed=0)
    source = method.source("train", batches.host_shard(place, method.batch))
    placed = functools.partial(jax.device_put, start, program.layouts)
    state, states, found = program.create() if start is None else placed(), [], []
    for _ in range(steps):
        states.append(jax.device_get(state))
        rows = batches.to_device(place, source.next(), method.batch)
        with jax.set_mesh(place):
            state, metrics = program.step(state, rows)
        found.append({name: float(x) for name, x in metrics.items()})
    source.close()
    return [*states, state], found, program


# Fields that only the loop and the source of batches read.
LOOP = {"log_steps", "save_steps", "max_bad_steps", "eval_steps", "replay"}
LEVEL = {"constant", "warmup_constant"}  # schedules that do not depend on `steps`


def program_fields(config) -> str:
    """The fields of a config that can change its program."""
    fields = config.to_dict()
    optimizer = fields.get("optimizer", {}).values()
    schedules = [x["kind"] for x in optimizer if isinstance(x, dict)]
    level = schedules and LEVEL.issuperset(schedules)
    leave_out = LOOP | {"steps"} if level else LOOP
    return json.dumps({k: fields[k] for k in sorted(fields.keys() - leave_out)})


def share_programs(patch) -> None:
    """Let whole runs of one config and mesh share a program, traced and compiled once."""
    from core import train

    loaded, programs = [], {}
    load, build = train.load_method, train.build_program

    def load_method(config):
        loaded.append((load(config), program_fields(config)))
        return loaded[-1][0]

    def build_program(method, mesh, **options):
        fields = next(fields for one, fields in loaded if one is method)
        key = fields, mesh, *options.items()
        if key not in programs:
            programs[key] = build(method, mesh, **options)
        return programs[key]

    patch.setattr(train, "load_method", load_method)
    patch.setattr(train, "build_program", build_program)


TINY = "configs/jepa.py:tiny"


def start(
    config, workdir, *flags, preset=TINY, command=("launch.train",), **options
) -> subprocess.Popen:
    """`python -m launch.train` on this config, in a process group and with one device.

    command: another module, and its arguments before these.
    """
    from core.runs.run_folder import flatten
    from launch.config import load

    now, before = flatten(config.to_dict()), flatten(load(f"{ROOT}/{preset}").to_dict())
    changed = [f"--config.{k}={v}" for k, v in now.items() if v != before[k]]
    environment = os.environ | {"XLA_FLAGS": QUICK}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", *command, f"--config={preset}"),
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
