"""Runs jobs in processes of their own; finished jobs are kept when the run is killed."""

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
from core.data.files.file_lists import OLD_WORK, WORK_MARK

FACTS = "facts.json"


def run_all(
    jobs: dict[pathlib.Path, tuple],
    work: Callable,
    *,
    workers: int,
    timeout_s: float,
    on_lost: Callable,
) -> Iterator[pathlib.Path]:
    """Run `work(folder, *arguments)` in a process for each job {folder: arguments}.

    workers: processes at a time. If a process crashes or takes longer than `timeout_s`
    seconds, `on_lost(folder, reason, *arguments)` is called here and the others continue.
    Yields folders as their jobs end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    todo, running = list(jobs.items())[::-1], {}
    try:
        while todo or running:
            while todo and len(running) < workers:
                folder, arguments = todo.pop()
                process = context.Process(
                    target=_run_job, args=(work, folder, *arguments)
                )
                with ignore_parent_signals():
                    process.start()
                running[process.sentinel] = process, folder, monotonic() + timeout_s
            ends = [end for _, _, end in running.values()]
            done = wait(list(running), max(0.0, min(ends) - monotonic()))
            late = [s for s, (_, _, end) in running.items() if end <= monotonic()]
            for sentinel in {*done, *late}:
                process, folder, _ = running.pop(sentinel)
                reason = f"its process ended with exit code {process.exitcode}"
                if process.exitcode is None:
                    process.kill()
                    reason = f"its process took longer than {timeout_s:g} s"
                process.join()
                if process.exitcode:
                    on_lost(folder, reason, *jobs[folder])
                yield folder
    finally:
        for process, _, _ in running.values():
            process.kill()


def _run_job(work, folder, *arguments):
    end_with_parent()
    work(folder, *arguments)


def folder_name(name: str) -> str:
    """A valid folder name for any name: its SHA-1."""
    return hashlib.sha1(name.encode()).hexdigest()


def mark_work_folder(folder: pathlib.Path) -> pathlib.Path:
    """Create a folder for jobs, with the file by which searches for videos pass it over.

    Returns the path of that file. Raises ValueError if the folder holds other files, which
    would be deleted at the end.
    """
    mark = folder / WORK_MARK
    if folder.is_dir() and not mark.exists():
        inside = os.listdir(folder)
        if not all(map(OLD_WORK.fullmatch, inside)):
            raise ValueError(
                f"{folder} is needed for work in progress, but holds other files; rename "
                "it, or choose another --to"
            )
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return mark


def empty_folder(folder: pathlib.Path):
    """Create a folder, or delete all in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def write_facts(folder: pathlib.Path, facts: dict):
    """Write a job's facts, after all its files: they mark the job as done."""
    write_json(folder / FACTS, facts)


def read_facts(folder: pathlib.Path) -> dict | None:
    """The facts of a job, or None if it is not done."""
    try:
        return json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        return None


def file_stamp(path) -> list:
    """[bytes, time of change] of a file, to find out whether it changed."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
