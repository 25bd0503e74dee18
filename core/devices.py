"""The first JAX call of every command: join the job's processes, if there are others."""

import os

import jax

# A scheduler that starts several processes announces itself by one of these.
SCHEDULERS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")


def start() -> None:
    """Join the processes of a Slurm, Open MPI or TPU job; do nothing when alone."""
    sizes = {name: os.environ.get(name, "") for name in SCHEDULERS}
    hosts = sizes.pop("TPU_WORKER_HOSTNAMES").split(",")
    several = len(hosts) > 1 or any(n.isdigit() and int(n) > 1 for n in sizes.values())
    if several or os.environ.get("JAX_COORDINATOR_ADDRESS"):
        jax.distributed.initialize(initialization_timeout=1800)
