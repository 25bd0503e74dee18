"""A run's folder: resolved config, provenance, lock, checks before it is reused."""

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
import time

import jax

from core.base import buckets, nested
from core.base.files import digest, os_error_text, read_json, write_json
from core.base.locks import hold_by_beats, try_lock
from core.base.places import local_folder
from core.config import current_name
from core.runs import checkpoint, mirror

CONFIG = "config.json"
LOCK = ".lock"
METRICS = "metrics.jsonl"
PROVENANCE = "provenance.json"
# Fields that older runs lack, with the value by which they go on.
ADDED = {"data.frame_tolerance": 0.5, "guard.norm": 0.0}
ADDED |= {"probe.twin_clips": 0, "probe.tubelet": [0, 0, 0]}
ADDED |= dict.fromkeys(
    (f"eval_steps.{x}" for x in ("physical", "dense", "surprise")), -1
)
ADDED |= {
    f"planner.{name}": value
    for name, value in {
        "cem.momentum": 0.0,
        "cem.mean_first": False,
        "icem.momentum": 0.1,
        "icem.beta": 2.0,
        "icem.keep": 5,
        "mppi.temperature": 0.5,
        "mppi.std_min": 0.05,
        "mppi.std_max": 2.0,
        "gradient.candidates": 8,
        "gradient.rounds": 30,
        "gradient.rate": 0.1,
        "gradient.noise": 0.0,
        "categorical.momentum": 0.0,
        "categorical.smoothing": 1.0,
    }.items()
}
# Fields that change no result; older runs lack some of them.
FREE = (
    *("data.stall_s", "guard.hang_s", "guard.rollback"),
    *(
        f"physical.{x}"
        for x in ("train_clips", "held_clips", "steps", "pairs", "cell", "twin")
    ),
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@contextlib.contextmanager
def at(workdir):
    """Yields (folder, send) for a run: its folder, or a mirror of one in a bucket.

    send: writes what changed in the mirror to the bucket; does nothing for a folder.
    """
    if buckets.is_bucket(workdir):
        with mirror.mirrored(workdir) as run:
            yield run.folder, run.send
    else:
        yield local_folder(workdir, what="--workdir"), mirror.nothing


def open_folder(workdir, config: dict, *, allow_change: bool = False) -> pathlib.Path:
    """Create the folder of a run if it is not there; returns its absolute path.

    Raises ValueError if it is an address or cannot be written, or if it holds a run of
    another config and not `allow_change`.
    """
    workdir = local_folder(workdir, what="--workdir")
    path = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable{jax.process_index()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"workdir {workdir} cannot be written: {os_error_text(error)}; "
            "give another --workdir"
        ) from None
    if path.exists() and has_output(workdir) and not allow_change:
        changes = differences(read_config(workdir), config)
        if changes:
            raise ValueError(
                f"workdir {mirror.shown(workdir)} holds a run of another config: "
                f"{'; '.join(changes)}. Use another --workdir, or --allow_config_change to "
                "go on with the new one"
            )
    return workdir


def has_output(workdir: pathlib.Path) -> bool:
    """Whether a run has written checkpoints or metrics there."""
    metrics = workdir / METRICS
    saved = checkpoint.steps_in(mirror.within(workdir, mirror.CHECKPOINTS))
    return bool(saved) or (metrics.exists() and metrics.stat().st_size > 0)


@contextlib.contextmanager
def hold_lock(folder: pathlib.Path):
    """Hold the folder's lock (process 0); raises ValueError if another run holds it."""
    if jax.process_index() > 0:
        yield
        return
    path = folder / LOCK
    with open(path, "a") as file:
        got = try_lock(file)
        if got is False:
            time.sleep(0.2)  # `is_training` holds the lock for a moment
            got = try_lock(file)
        if got is False:
            raise ValueError(
                f"another process is training in {folder}; wait for it or stop it"
            )
        if got:
            yield
        else:  # the file system has no locks
            with hold_by_beats(path, f"is training in {folder}"):
                yield


def is_training(folder: pathlib.Path) -> bool:
    """Whether a process trains in the folder; False where the file system has no locks."""
    if mirror.address_of(folder):
        return mirror.is_training(folder)
    try:
        with open(folder / LOCK) as file:
            return try_lock(file, fcntl.LOCK_SH) is False
    except OSError:
        return False


def record(folder: pathlib.Path, config: dict, *, step: int) -> None:
    """Write config.json and provenance.json, which has the digest of the former.

    A resume at `step` is added to provenance.json.
    """
    write_json(folder / CONFIG, config)
    path = folder / PROVENANCE
    origin = provenance(config["init_from"] or None)
    if step and path.exists():
        known = read_json(path)
        resumed = [*known.get("resumed", []), {"step": step, **origin}]
        origin = known | {"resumed": resumed}
    write_json(path, origin | {CONFIG: digest(folder / CONFIG)})


def read_config(workdir) -> dict:
    """The resolved config of a run; methods have their current names.

    Raises ValueError if no run was started in `workdir`, or the file is damaged, changed or
    that of published weights.
    """
    path = pathlib.Path(workdir) / CONFIG
    if not path.exists():
        raise ValueError(f"{path} does not exist: no run was started there")
    config = read_json(path)
    if not isinstance(config, dict) or "method" not in config:
        raise ValueError(
            f"{path} is not that of a run: it has no field 'method'; weights of a Hugging "
            "Face folder or an export are read by --config.init_from of a new run"
        )
    origin = path.with_name(PROVENANCE)
    recorded = read_json(origin).get(CONFIG) if origin.exists() else None
    if recorded and recorded != digest(path):  # older runs have not recorded it
        raise ValueError(
            f"{path} is not what the run recorded, by its SHA-256 in {PROVENANCE}; restore "
            "it, or train with --allow_config_change to record another"
        )
    return config | {"method": current_name(config.get("method", ""))}


def flatten(config: dict) -> dict:
    """Nested sections -> {"section.field": value}."""
    return nested.flatten(config, ".")


def differences(old: dict, new: dict) -> list[str]:
    """One phrase per field that differs, as JSON would store it.

    Fields of FREE make none, nor does one that an older run lacks and that is empty now or
    as in ADDED.
    """
    old, new = flatten(old), flatten(json.loads(json.dumps(new)))
    old = {key: "" for key in new if new[key] == ""} | old
    old = {key: x for key, x in ADDED.items() if key in new} | old
    return [
        f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
        for key in sorted((old.keys() | new.keys()) - set(FREE))
        if old.get(key, "absent") != new.get(key, "absent")
    ]


@functools.cache
def revision() -> str:
    """The code's git commit, followed by "+" if the tree has changes; else "unknown".

    That of the first call: later changes are not those of the code that runs.
    """
    here = pathlib.Path(__file__).parent
    try:
        run = {"cwd": here, "capture_output": True, "text": True, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], **run).stdout.strip()
        return head + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(parent: str | None) -> dict:
    """Code revision, package versions, machine, command and parent checkpoint of a run."""
    device = jax.devices()[0]
    return {
        "revision": revision(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "processes": jax.process_count(),
        "host": platform.platform(),
        "command": sys.argv,
        "parent": parent,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
