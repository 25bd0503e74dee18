"""Multi-process initialization: the first JAX call of every command."""

import ctypes
import os
import signal
from typing import Any

import jax
from jax._src.distributed import (
    global_state,
)  # the store of the coordinator has no other name

# Environment variables of schedulers that start several processes. Slurm's is that of a
# job step: a batch script sees SLURM_NTASKS although it is one process.
SCHEDULERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")
# What errors say when a collective or the coordinator loses a process.
LOST = ("Gloo", "NCCL", "UNAVAILABLE", "oordination", "eartbeat", "onnection")
GONE = (
    "another process of the job is gone, or cannot be reached: its output says why. Start "
    "the job again: it resumes from its last checkpoint"
)
MEET_S = 24 * 3600  # evaluations may take long; a process that dies ends the wait
SECONDS: dict[str, Any] = {
    "initialization_timeout": 1800,
    "shutdown_timeout_seconds": 120,
}


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    peer_timeout_s: int = 60,
) -> None:
    """Initialize jax.distributed from the flags, or from Slurm, Open MPI or a TPU pod.

    Does nothing for a single process. A process that is not heard of for `peer_timeout_s`
    ends the others. Raises ValueError for an incomplete or wrong description, and where the
    processes do not connect.
    """
    if peer_timeout_s < 1:
        raise ValueError(f"--peer_timeout_s is {peer_timeout_s}; use 1 or more")
    beat = {"heartbeat_timeout_seconds": peer_timeout_s}
    flags = (coordinator, num_processes, process_id)
    if flags != (None, None, None):
        check_flags(coordinator, num_processes, process_id)
        join(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            **beat,
        )
    elif scheduled() or os.environ.get("JAX_COORDINATOR_ADDRESS"):
        join(**beat)


def check_flags(coordinator, num_processes, process_id) -> None:
    """Raise ValueError unless the three flags describe a job."""
    if None in (coordinator, num_processes, process_id):
        raise ValueError(
            "--coordinator, --num_processes and --process_id belong together; "
            "give all three or, under Slurm, Open MPI and on TPUs, none"
        )
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit()):
        raise ValueError(
            f"--coordinator is {coordinator!r}; use HOST:PORT of process 0"
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id is {process_id}; use 0 to {num_processes - 1} for "
            f"{num_processes} processes"
        )


def scheduled() -> bool:
    """Whether a scheduler has started several processes, by the environment."""
    sizes = {name: os.environ.get(name, "") for name in SCHEDULERS}
    hosts = sizes.pop("TPU_WORKER_HOSTNAMES").split(",")
    return len(hosts) > 1 or any(n.isdigit() and int(n) > 1 for n in sizes.values())


def join(**flags: Any) -> None:
    """jax.distributed.initialize; raises ValueError where the processes do not connect."""
    end_with_a_sentence()
    try:
        jax.distributed.initialize(**flags, **SECONDS)
    except RuntimeError as error:
        raise ValueError(
            f"the processes of the job did not connect: {error}"
        ) from error


def end_with_a_sentence() -> None:
    """Say why when JAX aborts this process, as it does when another one of the job is gone.

    JAX aborts from a thread of its own, which runs no Python; ctypes lets it run this.
    """
    _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(_aborted))
    ctypes.CDLL(None).signal(signal.SIGABRT, _handlers[-1])


def _aborted(number):
    os.write(2, f"error: {GONE}\n".encode())
    os._exit(1)


_handlers: list = []  # C calls them, so they must live


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of JAX says that another process of the job cannot be reached."""
    text = str(error)
    return isinstance(error, jax.errors.JaxRuntimeError) and any(
        word in text for word in LOST
    )


def store():
    """The coordinator's key-value store, shared by all processes; None for one process."""
    return global_state.client if jax.process_count() > 1 else None


def meet(name: str) -> None:
    """Wait, without devices, until all processes are here; `name` must be used once."""
    if (client := store()) is not None:
        client.wait_at_barrier(name, timeout_in_ms=1000 * MEET_S)
