"""Many files through a worker each, side by side; what is done stays done after a kill."""

import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from time import monotonic

from core.base.files import write_json
from core.base.processes import end_with_parent, ignore_parent_signals

FACTS = "facts.json"


def run_all(
    jobs: dict[pathlib.Path, tuple],
    work: Callable,
    *,
    workers: int,
    timeout_s: float,
    lost: Callable,
) -> Iterator[pathlib.Path]:
    """Do `work(folder, *arguments)` for each job {folder: arguments}, in its own process.

    A process that crashes or takes longer than `timeout_s` costs its job alone: then
    `lost(folder, reason, *arguments)` is called here.

    Yields:
      folders as their jobs end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    todo, running = list(jobs.items())[::-1], {}
    try:
        while todo or running:
            while todo and len(running) < workers:
                folder, arguments = todo.pop()
                process = context.Process(target=_work, args=(work, folder, *arguments))
                with ignore_parent_signals():
                    process.start()
                running[process.sentinel] = process, folder, monotonic() + timeout_s
            ends = [end for _, _, end in running.values()]
            done = wait(list(running), max(0.0, min(ends) - monotonic()))
            late = [s for s, (_, _, end) in running.items() if end <= monotonic()]
            for sentinel in {*done, *late}:
                process, folder, _ = running.pop(sentinel)
                reason = f"its reader ended with code {process.exitcode}"
                if process.exitcode is None:
                    process.kill()
                    reason = f"it takes longer than {timeout_s:g} s"
                process.join()
                if process.exitcode:
                    lost(folder, reason, *jobs[folder])
                yield folder
    finally:
        for process, _, _ in running.values():
            process.kill()


def _work(work, folder, *arguments):
    end_with_parent()
    work(folder, *arguments)


def home_of(name: str) -> str:
    """A folder name for what is called so, whatever stands in it."""
    return hashlib.sha1(name.encode()).hexdigest()


def begin(folder: pathlib.Path):
    """An empty folder for a job."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def finish(folder: pathlib.Path, facts: dict):
    """Write a job's facts, after all its files: they say that it is done."""
    write_json(folder / FACTS, facts)


def facts_of(folder: pathlib.Path) -> dict | None:
    """The facts of a job that is done."""
    try:
        return json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        return None


def stamp(path) -> list:
    """Changes when a file does: size and time of change."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
