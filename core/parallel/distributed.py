"""The first JAX call of every command: join the job's processes, if there are others."""

import os

import jax

# A scheduler that starts several processes announces itself by one of these. Slurm's is
# that of a job step: a batch script sees SLURM_NTASKS although it runs alone.
SCHEDULERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")
SECONDS = {"initialization_timeout": 1800, "shutdown_timeout_seconds": 120}


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Join the others of a job that is described here, or by Slurm, Open MPI or a TPU.

    Does nothing for a process that is alone.
    """
    described = (coordinator, num_processes, process_id)
    if described != (None, None, None):
        check(coordinator, num_processes, process_id)
        join(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
        )
    elif announced() or os.environ.get("JAX_COORDINATOR_ADDRESS"):
        join()


def check(coordinator, num_processes, process_id) -> None:
    """Refuse half a description of a job."""
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


def announced() -> bool:
    """Whether a scheduler has started more processes than this one."""
    sizes = {name: os.environ.get(name, "") for name in SCHEDULERS}
    hosts = sizes.pop("TPU_WORKER_HOSTNAMES").split(",")
    return len(hosts) > 1 or any(n.isdigit() and int(n) > 1 for n in sizes.values())


def join(**described) -> None:
    try:
        jax.distributed.initialize(**described, **SECONDS)
    except RuntimeError as error:
        raise ValueError(f"the job's processes cannot be joined: {error}") from error
