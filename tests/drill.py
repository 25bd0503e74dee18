"""A fault drill: a job of real processes is disturbed at random and must end as if it were not.

python tests/drill.py --processes=2 --faults=9 --seed=0

Each round starts the job, injects one fault at a random moment, waits for all processes to end,
and starts the job again. At the end the parameters are compared bit for bit with those of an
undisturbed job, and a table says what was survived and how many steps were lost.
"""

import argparse
import contextlib
import itertools
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from small import small, start  # noqa: E402

from core.submit.local import free_port  # noqa: E402

FAULTS = (
    "kill",
    "kill in a save",
    "SIGTERM",
    "SIGUSR1",
    "hang",
    "stalled worker",
    "full disk",
    "corrupt",
    "count",
)
STALL_S = 20.0  # without data, after which a process gives up
END_S = 240  # until every process must have ended after a fault
SAVE_STEPS, STEPS = 15, 240


def job(count, folder, logs, **fields):
    """Start `count` processes of one run; output goes to LOGS/NAME.RANK.log."""
    config = small(steps=STEPS, save_steps=SAVE_STEPS, mesh__fsdp=-1, **fields)
    config.data.update({"workers": 1, "stall_s": STALL_S})
    config.update({"keep_checkpoints": 3, "guard": {"hang_s": 60.0}})
    flags = ["--peer_timeout_s=20"]
    if count > 1:
        flags += [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}"]
    processes = []
    for rank in range(count):
        own = [f"--process_id={rank}"] if count > 1 else []
        log = open(logs / f"{folder.name}.{rank}.log", "ab")
        pipes = {"stdout": log, "stderr": subprocess.STDOUT}
        processes.append(start(config, folder, *flags, *own, **pipes))
    return processes


def step_of(folder) -> int:
    """The last step that is written to the metrics."""
    path = pathlib.Path(folder) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
    return steps[-1] if steps else 0


def wait_for(what, processes, seconds=END_S) -> bool:
    """Whether `what()` became true before a process ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(p.poll() is None for p in processes):
        if what():
            return True
        time.sleep(0.01)
    return False


def end_of(processes, seconds=END_S) -> list[int | str]:
    """Exit codes; a process that does not end is killed, which fails the drill."""
    codes, end = [], time.monotonic() + seconds
    for process in processes:
        try:
            codes.append(process.wait(max(1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append("hangs")
    return codes


def inject(fault, processes, folder, rng) -> None:
    """Disturb a job that is running."""
    chosen = rng.choice(processes)
    after = step_of(folder) + rng.randrange(1, 2 * SAVE_STEPS)
    if fault == "kill in a save":
        saving = lambda: any((folder / "checkpoints").glob("*orbax-checkpoint-tmp"))  # noqa: E731
        wait_for(lambda: step_of(folder) >= after and saving(), processes)
        time.sleep(rng.random() * 0.05)
        chosen.kill()
        return
    wait_for(lambda: step_of(folder) >= after, processes)
    time.sleep(rng.random() * 0.2)
    if chosen.poll() is not None:
        return
    if fault in ("kill", "count", "corrupt"):
        chosen.kill()
    elif fault == "hang":
        chosen.send_signal(
            signal.SIGSTOP
        )  # beats no more: the others end, then it is killed
        end_of([p for p in processes if p is not chosen])
        chosen.kill()
    elif fault == "stalled worker":
        workers = psutil.Process(chosen.pid).children(recursive=True)
        for worker in workers:
            worker.suspend()
        end_of(processes)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
    elif fault == "full disk":
        ballast = folder / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"0" * 65536)
            except OSError:
                pass
        end_of(processes)
        ballast.unlink()
    else:
        chosen.send_signal(getattr(signal, fault))


def corrupt(folder, rng) -> bool:
    """Flip one bit of the newest checkpoint, if there is an older one."""
    steps = sorted(
        int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()
    )
    if len(steps) < 2:
        return False
    files = [
        p for p in (folder / "checkpoints" / str(steps[-1])).rglob("d/*") if p.is_file()
    ]
    path = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return True


def parameters(folder) -> dict:
    """All arrays of the last checkpoint, by name."""
    import jax
    from orbax.checkpoint import v1 as ocp

    place = folder / "checkpoints" / str(STEPS)
    there = ocp.metadata(place, checkpointable_name="state").metadata
    like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), there)
    state = ocp.load(place, like, checkpointable_name="state")
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def drill(folder: pathlib.Path, names, *, count: int, faults: int, seed: int) -> bool:
    """Run the drill in an empty folder; returns whether all was survived."""
    rng = random.Random(seed)
    calm, run = folder / "calm", folder / "disturbed" / "run"
    run.parent.mkdir()
    tmpfs = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "drill", str(run.parent)],
        check=False,
    ).returncode
    names = [f for f in names if not (tmpfs and f == "full disk")]
    rows, ok, same = [], True, True
    try:
        codes = end_of(job(count, calm, folder), 10 * END_S)
        assert codes == [0] * count, (codes, folder / "calm.0.log")
        now = count
        for number in range(faults):
            fault = (
                names[number % len(names)] if number < len(names) else rng.choice(names)
            )
            processes, before = job(now, run, folder), step_of(run)
            if not wait_for(lambda b=before: step_of(run) > b, processes):
                rows.append((fault, "-", end_of(processes), "the run ended before"))
                break
            inject(fault, processes, run, rng)
            codes, at = end_of(processes), step_of(run)
            if fault == "corrupt":
                corrupt(run, rng)
            if fault == "count":
                now, same = (1 if now > 1 else count), False
            good = "hangs" not in codes and all(c != 0 or at == STEPS for c in codes)
            rows.append((fault, at, codes, "survived" if good else "FAILED"))
            ok &= good
            print(*rows[-1], flush=True)
        codes = end_of(job(now, run, folder), 10 * END_S)
        ok &= codes == [0] * now
        lost = lost_steps(run)
        a, b = parameters(calm), parameters(run)
        equal = all(np.array_equal(a[k], b[k]) for k in a)
        close = all(np.allclose(a[k], b[k], rtol=1e-3, atol=1e-5) for k in a)
        ok &= close if not same else equal
        print("\n| fault | at step | exit codes | outcome |\n|---|---|---|---|")
        for fault, at, codes_, text in rows:
            print(f"| {fault} | {at} | {codes_} | {text} |")
        print(f"\nlast start: {codes}; steps lost per restart: {lost}")
        # A corrupted checkpoint costs one interval more.
        ok &= all(n <= 2 * SAVE_STEPS for n in lost)
        how = "bit for bit" if equal else "within 1e-3" if close else "NOT"
        print(f"parameters equal those of the undisturbed run: {how}")
        return ok
    finally:
        if not tmpfs:
            subprocess.run(["umount", str(run.parent)], check=False)


def lost_steps(folder) -> list[int]:
    """Steps that each restart did again."""
    sessions = json.loads((folder / "goodput.json").read_text())
    return [
        max(0, one["step"] - after["first"])
        for one, after in itertools.pairwise(sessions)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--faults", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FAULTS, help="this fault alone")
    given = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="drill"))
    begin = time.monotonic()
    names = (given.only,) if given.only else FAULTS
    how = {"count": given.processes, "faults": given.faults, "seed": given.seed}
    ok = drill(folder, names, **how)
    print(f"{time.monotonic() - begin:.0f} s; logs in {folder}")
    if ok:
        shutil.rmtree(folder)
    sys.exit(not ok)


if __name__ == "__main__":
    main()
