"""Multi-process initialization: the first JAX call of every command."""

import os
import socket
import threading

import jax

from core.parallel import discovery
from core.parallel.discovery import Processes
from core.parallel.peers import end_with_a_sentence

CONNECT_S = 1800.0  # large jobs take long to start on all hosts
SHUTDOWN_S = 120
PEER_TIMEOUT_S = 60


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    connect_s: float = CONNECT_S,
    peer_timeout_s: int = PEER_TIMEOUT_S,
) -> None:
    """Initialize jax.distributed from the flags, or from the scheduler's environment.

    Prints what was found; does nothing for a single process. connect_s: seconds to wait
    for the other processes. peer_timeout_s: seconds without a sign of life after which a
    process counts as dead and the others end.

    Raises ValueError for an incomplete or wrong description, one that disagrees with the
    scheduler, and where the processes do not connect.
    """
    if peer_timeout_s < 1:
        raise ValueError(f"--peer_timeout_s is {peer_timeout_s}; use 1 or more")
    if (coordinator, num_processes, process_id) != (None, None, None):
        found = of_flags(coordinator, num_processes, process_id)
        check_count(found, os.environ)
    else:
        found = discovery.find(os.environ)
        if found is None or found.count == 1:
            return
    print(summary(found), flush=True)
    end_with_a_sentence()
    join(found, connect_s, peer_timeout_s)


def of_flags(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Processes:
    """The job that the three flags describe; raises ValueError if they do not."""
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "--coordinator, --num_processes and --process_id belong together; "
            "give all three or, where a scheduler starts the processes, none"
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
    return Processes("flags", num_processes, process_id, coordinator)


def check_count(flags: Processes, environment) -> None:
    """Raise ValueError if a scheduler started another number of processes than flags say.

    A single one may be a shell in which processes are started by hand.
    """
    says = discovery.of_slurm(environment) or discovery.of_open_mpi(environment)
    if says and says.count not in (1, flags.count):
        raise ValueError(
            f"--num_processes is {flags.count}, but {says.origin} started {says.count} "
            "processes; leave out --coordinator, --num_processes and --process_id"
        )


def summary(found: Processes) -> str:
    """One line: the processes of the job, and which one this is."""
    return (
        f"{found.count} processes ({found.origin}), this is {found.index}, "
        f"coordinator {found.coordinator}"
    )


def join(found: Processes, connect_s: float, peer_timeout_s: int) -> None:
    """jax.distributed.initialize; raises ValueError where the processes do not connect.

    It runs in a thread, since JAX aborts the process when its own time limit passes.
    """
    errors = []

    def connect():
        try:
            jax.distributed.initialize(
                found.coordinator,
                found.count,
                found.index,
                local_device_ids=found.devices,
                cluster_detection_method="deactivate",
                initialization_timeout=int(2 * connect_s) + 60,
                heartbeat_timeout_seconds=peer_timeout_s,
                shutdown_timeout_seconds=SHUTDOWN_S,
            )
        except Exception as error:  # noqa: BLE001, raised below
            errors.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(connect_s)
    if thread.is_alive():
        raise ValueError(
            f"the processes of the job did not connect in {connect_s:g} s: "
            f"{reason(found)}"
        )
    if errors:
        raise ValueError(
            f"the processes of the job did not connect: {errors[0]}"
        ) from errors[0]


def reason(found: Processes) -> str:
    """Why process `found.index` is still waiting."""
    if found.index:
        host, _, port = found.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            return (
                f"process 0 does not answer at {found.coordinator} "
                f"({error.strerror or error}); see its log, and that hosts may connect "
                "to this port"
            )
    return (
        f"not all {found.count} of them came; see the logs of the others, and raise "
        "--connect_s if hosts take longer to start"
    )
