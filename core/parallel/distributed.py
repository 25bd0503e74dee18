"""Multi-process initialization: the first JAX call of every command."""

import os
from typing import Any

import jax

# Environment variables of schedulers that start several processes. Slurm's is that of a
# job step: a batch script sees SLURM_NTASKS although it is one process.
SCHEDULERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")
SECONDS: dict[str, Any] = {
    "initialization_timeout": 1800,
    "shutdown_timeout_seconds": 120,
}


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Initialize jax.distributed from the flags, or from Slurm, Open MPI or a TPU pod.

    Does nothing for a single process. Raises ValueError for an incomplete or wrong
    description, and where the processes do not connect.
    """
    flags = (coordinator, num_processes, process_id)
    if flags != (None, None, None):
        check_flags(coordinator, num_processes, process_id)
        join(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
        )
    elif scheduled() or os.environ.get("JAX_COORDINATOR_ADDRESS"):
        join()


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
    try:
        jax.distributed.initialize(**flags, **SECONDS)
    except RuntimeError as error:
        raise ValueError(
            f"the processes of the job did not connect: {error}"
        ) from error
