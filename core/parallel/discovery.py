"""Finds the other processes of a job in the environment that its scheduler sets."""

import importlib.util
import re
import urllib.request
from collections.abc import Mapping
from glob import glob
from typing import NamedTuple

# What launch.submit sets where no scheduler numbers the processes.
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TPU_PORT, FIRST_PORT, PORTS = 8482, 61440, 4096
TPU_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
METADATA = "http://{host}/computeMetadata/v1/instance/attributes/{key}"
METADATA_S = 3.0


class Processes(NamedTuple):
    """The processes of a job, as one of them sees it."""

    origin: str  # who says so: "Slurm job 123"
    count: int
    index: int  # of this process
    coordinator: str  # HOST:PORT of process 0
    devices: tuple[int, ...] | None = None  # local GPUs of this process; None: all


def find(environment: Mapping[str, str]) -> Processes | None:
    """The job of this process, by its environment; None if there is no scheduler.

    In order: the three VARIABLES, a step of Slurm, Open MPI, TPU slices on GKE and TPU
    VMs. JAX_COORDINATOR_ADDRESS alone replaces the address that a scheduler gives. Raises
    ValueError where what a scheduler says is incomplete or contradictory.
    """
    named = [name for name in VARIABLES if environment.get(name)]
    ways = (of_slurm, of_open_mpi, of_tpu_pods, of_tpu_vms)
    if named == list(VARIABLES):
        found = of_variables(environment)
    else:
        found = next((job for way in ways if (job := way(environment))), None)
    if found is None:
        missing = [name for name in VARIABLES if name not in named]
        if named:
            raise ValueError(
                f"the environment has {' and '.join(named)} but not "
                f"{' and '.join(missing)}; set all three or none"
            )
        return None
    if not 0 <= found.index < found.count:
        raise ValueError(
            f"{found.origin}: this is process {found.index} of {found.count}; expected "
            f"0 to {found.count - 1}"
        )
    return found._replace(
        coordinator=environment.get(VARIABLES[0]) or found.coordinator
    )


def of_variables(environment) -> Processes:
    origin = "environment"
    count = whole_number(environment, "JAX_NUM_PROCESSES", origin)
    index = whole_number(environment, "JAX_PROCESS_ID", origin)
    return Processes(origin, count, index, environment["JAX_COORDINATOR_ADDRESS"])


def of_slurm(environment) -> Processes | None:
    """A step of several tasks. A batch script has no step and is one process."""
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    job = environment.get("SLURM_JOB_ID", "")
    origin = f"Slurm job {job}"
    count = whole_number(environment, "SLURM_STEP_NUM_TASKS", origin)
    index = whole_number(environment, "SLURM_PROCID", origin)
    local = whole_number(environment, "SLURM_LOCALID", origin)
    number = whole_number(environment, "SLURM_JOB_ID", origin)
    # "n[003-005,9]" and "n7,m3" begin with the name of the first node.
    nodes = text(environment, "SLURM_STEP_NODELIST")
    host = "".join(re.findall(r"^([^,\[]+)(?:\[(\d+))?", nodes)[0])
    here = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    gpus = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    shared = here.split(",")[0].split("(")[0] != "1" and len(gpus) > 1
    address = port_of(host, number)
    return Processes(origin, count, index, address, (local,) if shared else None)


def of_open_mpi(environment) -> Processes | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    origin = "Open MPI"
    count = whole_number(environment, "OMPI_COMM_WORLD_SIZE", origin)
    index = whole_number(environment, "OMPI_COMM_WORLD_RANK", origin)
    local = whole_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", origin)
    # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"; job numbers are multiples of 4096
    pattern = r"(\d+)\..*?tcp6?://\[?([^],]+?)(?:[],]|:\d+$)"
    match = re.match(pattern, environment.get("OMPI_MCA_orte_hnp_uri", ""))
    if match is None and count > 1 and not environment.get(VARIABLES[0]):
        raise ValueError(
            "Open MPI does not say where its first process is; set "
            f"{VARIABLES[0]}=HOST:PORT for all processes"
        )
    job, host = match.groups() if match else ("0", "localhost")
    # As many GPUs as processes on a host: one for each.
    alone = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    address = port_of(host, int(job) // PORTS)
    return Processes(origin, count, index, address, None if alone else (local,))


def of_tpu_pods(environment) -> Processes | None:
    """Slices on GKE, which sets what these variables say in every pod."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get(
        "TPU_WORKER_HOSTNAMES", ""
    )
    hosts = [host for host in hosts.split(",") if host]
    several = int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1
    if len(hosts) < 2 and not several:
        return None
    worker = whole_number(environment, "TPU_WORKER_ID", "GKE")
    return of_slices("GKE", hosts or ["localhost"], worker, environment)


def of_tpu_vms(environment) -> Processes | None:
    """TPU VMs, which are described by the metadata server of their hosts."""
    there = any(map(glob, TPU_FILES)) and importlib.util.find_spec("libtpu")
    if "TPU_SKIP_MDS_QUERY" in environment or not there:
        return None
    worker = metadata(environment, "agent-worker-number")
    if worker is None or not worker.isdigit():
        return None
    # "HOST,HOST" or "NAME:ID:ADDRESS,NAME:ID:ADDRESS"
    ends = (metadata(environment, "worker-network-endpoints") or "").split(",")
    hosts = [end.split(":")[-1] for end in ends]
    lines = (metadata(environment, "tpu-env") or "").splitlines()
    pairs = (line.partition(":")[::2] for line in lines)
    slices = {name.strip(): value.strip(" '") for name, value in pairs}
    return of_slices("TPU VMs", hosts, int(worker), {**slices, **environment})


def of_slices(origin: str, hosts: list[str], worker: int, multislice) -> Processes:
    """Process numbers count through the hosts of slice 0, then those of slice 1."""
    slices = int(multislice.get("MEGASCALE_NUM_SLICES") or 1)
    number = int(multislice.get("MEGASCALE_SLICE_ID") or 0)
    first = multislice.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    address = f"{first.split(':')[0]}:{TPU_PORT}"
    count = len(hosts) * slices
    return Processes(origin, count, number * len(hosts) + worker, address)


def metadata(environment, key: str) -> str | None:
    """An attribute of this virtual machine; None if no server answers with one."""
    host = environment.get("GCE_METADATA_HOST", "metadata.google.internal")
    address = METADATA.format(host=host, key=key)
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=METADATA_S) as answer:
            return answer.read().decode()
    except OSError:
        return None


def port_of(host: str, job: int) -> str:
    """HOST:PORT, with a port of its own for each of up to 4096 jobs on a host."""
    return f"{host}:{FIRST_PORT + job % PORTS}"


def text(environment, name: str) -> str:
    if name not in environment:
        raise ValueError(f"Slurm does not set {name}; start the processes with srun")
    return environment[name]


def whole_number(environment, name: str, origin: str) -> int:
    """An environment variable as a number; raises ValueError if it is none."""
    value = environment.get(name, "")
    if not value.isdigit():
        raise ValueError(
            f"{origin}: {name} is {value!r}, expected a whole number; start the "
            "processes with the scheduler's own command, such as srun"
        )
    return int(value)
