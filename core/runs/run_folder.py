"""The folder of a run: resolved config, provenance, and who may go on in it."""

import contextlib
import fcntl
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
import time

import jax

from core.base import nested
from core.base.files import os_error_text, write_json
from core.runs import checkpoint

CONFIG = "config.json"
METRICS = "metrics.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def open_folder(workdir, config: dict, *, allow_change: bool = False) -> pathlib.Path:
    """Make or enter the folder; refuse to go on with another config, naming the fields."""
    workdir = pathlib.Path(workdir).absolute()
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
    if path.exists() and begun(workdir) and not allow_change:
        changes = differences(read_config(path), config)
        if changes:
            raise ValueError(
                f"workdir {workdir} holds a run of another config: {'; '.join(changes)}. "
                "Use another --workdir, or --allow_config_change to go on with the new one"
            )
    return workdir


def begun(workdir: pathlib.Path) -> bool:
    """Whether a run there has written what another config would spoil."""
    metrics = workdir / METRICS
    saved = checkpoint.steps_in(workdir / "checkpoints")
    return bool(saved) or (metrics.exists() and metrics.stat().st_size > 0)


@contextlib.contextmanager
def alone(folder: pathlib.Path):
    """Hold the folder's lock: a second run that wrote beside this one would spoil both."""
    if jax.process_index() > 0:
        yield
        return
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is training in {folder}; wait for it or stop it"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def record(folder: pathlib.Path, config: dict, *, step: int) -> None:
    """Write the resolved config, and where this start of the run, at `step`, comes from."""
    write_json(folder / CONFIG, config)
    path = folder / "provenance.json"
    origin = provenance(config["init_from"] or None)
    if step and path.exists():
        known = read_config(path)
        resumed = [*known.get("resumed", []), {"step": step, **origin}]
        origin = known | {"resumed": resumed}
    write_json(path, origin)


def read_config(path) -> dict:
    """The resolved config that a run was started with."""
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: no run was started there") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {os_error_text(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from None


def flatten(config: dict) -> dict:
    """Nested sections -> {"section.field": value}."""
    return nested.flatten(config, ".")


def differences(old: dict, new: dict) -> list[str]:
    """One phrase per field that differs, as JSON would store it.

    A field that an older run lacks and that is empty now makes no difference.
    """
    old, new = flatten(old), flatten(json.loads(json.dumps(new)))
    old = {key: "" for key in new if new[key] == ""} | old
    return [
        f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "absent") != new.get(key, "absent")
    ]


def revision() -> str:
    """The code's git commit, with "+" when the tree has changes, or "unknown"."""
    here = pathlib.Path(__file__).parent
    try:
        run = {"cwd": here, "capture_output": True, "text": True, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], **run).stdout.strip()
        return head + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(parent: str | None) -> dict:
    """Where a run's numbers come from: code, packages, machine, parent checkpoint."""
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
