"""SkyPilot: a task for `sky jobs launch`, which recovers lost machines."""

import re

from core.submit import shell, tpu, yaml_text
from core.submit.job import MOUNT, Job

CLIENT, SUFFIX = ("sky", "jobs", "launch", "--yes", "--detach-run"), ".yaml"
RESTARTS = 3
REFUSES = {
    "claim": "that is of Kubernetes; use --bucket",
    "hours": "a managed job has no time limit",
    "grace_s": "SkyPilot does not wait for a job that it stops",
    "task_per_gpu": "SkyPilot starts one process per host",
    "queue": "SkyPilot chooses the cheapest place; restrict it with --zone",
    "namespace": "name a Kubernetes context with --zone=k8s/CONTEXT",
    "project": "SkyPilot takes that of your credentials",
    "service_account": "SkyPilot makes its own",
    "options": "edit what --dry_run shows",
}
PROCESSES = """\
export JAX_COORDINATOR_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):8476"
export JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"
"""


def check(job: Job) -> None:
    """Raise ValueError for several slices and shapes that SkyPilot cannot name."""
    hosts = job.hosts
    if hosts.slices > 1:
        raise ValueError(
            f"--target=skypilot cannot honour {hosts.slices} slices; use gke or tpu"
        )
    if hosts.platform == "tpu":
        tpu.check_shape(hosts)
    for secret in job.secrets:
        if not re.fullmatch(r"[A-Za-z_]\w*", secret):
            raise ValueError(
                f"--secret is {secret!r}; expected the name of a variable of your "
                "environment, which SkyPilot passes on"
            )


def render(job: Job) -> str:
    return yaml_text.dump(task(job))


def task(job: Job) -> dict:
    """The task. The current folder becomes that of the job, like SkyPilot's `workdir`."""
    hosts = job.hosts
    restarts = RESTARTS if job.restarts < 0 else job.restarts
    resources: dict = {"infra": job.zone} if job.zone else {}
    if hosts.platform == "tpu":
        resources["accelerators"] = f"tpu-{tpu.accelerator_type(hosts)}"
        version = tpu.RUNTIMES[hosts.kind]
        resources["accelerator_args"] = {"tpu_vm": True, "runtime_version": version}
    elif hosts.platform == "gpu":
        resources["accelerators"] = f"{hosts.kind.upper()}:{hosts.chips}"
    if job.cpus:
        resources["cpus"] = f"{job.cpus}+"
    if job.image:
        resources["image_id"] = f"docker:{job.image}"
    resources["use_spot"] = job.spot
    resources["job_recovery"] = {
        "max_restarts_on_errors": restarts,
        "recover_on_exit_codes": [75],
    }
    several = hosts.platform != "tpu" and hosts.nodes > 1
    mounts = {MOUNT: {"source": job.bucket, "mode": "MOUNT"}}
    train = f"exec {shell.folded(job.command)}\n"
    return {
        "name": job.name,
        "workdir": ".",
        "num_nodes": 1 if hosts.platform == "tpu" else hosts.nodes,
        "resources": resources,
        **({"envs": dict(job.env)} if job.env else {}),
        **({"secrets": dict.fromkeys(job.secrets)} if job.secrets else {}),
        **({"file_mounts": mounts} if job.bucket else {}),
        "run": "set -e\n"
        + (f"{job.setup}\n" if job.setup else "")
        + (PROCESSES if several else "")
        + train,
    }


def commands(job: Job, ident: str = "") -> dict[str, str]:
    """How to follow and stop the job."""
    return {
        "follow": f"sky jobs logs --name {job.name}",
        "stop": f"sky jobs cancel --name {job.name}",
    }
