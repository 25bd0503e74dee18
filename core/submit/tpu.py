"""Cloud TPU VMs: a script of gcloud commands around one queued resource."""

import shlex

from core import hardware
from core.submit import shell
from core.submit.hosts import Hosts
from core.submit.job import MOUNT, Job

CLIENT, SUFFIX = ("gcloud",), ".sh"
REFUSES = {
    "image": "TPU VMs run what --setup installs",
    "claim": "that is of Kubernetes; use --bucket",
    "hours": "a queued resource has no time limit",
    "grace_s": "nobody waits for a spot VM; the notice is that of Google",
    "restarts": "the script starts a saved or preempted job again without limit",
    "task_per_gpu": "TPU VMs have one process per host",
    "cpus": "the process has all CPUs of its host",
    "queue": "use --spot or --option=--reserved",
    "namespace": "that is of Kubernetes",
    "secrets": "let --setup fetch it, such as with gcloud secrets versions access",
}
# https://cloud.google.com/tpu/docs/runtimes
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
TYPES = {"v4": "v4", "v5e": "v5litepod", "v5p": "v5p", "v6e": "v6e"}
SCRIPT = """\
#!/bin/bash
# Keep this running, for example in tmux: it starts the job again after preemption.
set -uo pipefail
tpu=(gcloud compute tpus queued-resources)
at=({at})
remote={remote}
state() {{
  "${{tpu[@]}}" list "${{at[@]}}" --filter='name ~ /{name}$' --format='value(state.state)'
}}
create() {{
  "${{tpu[@]}}" create {create} "${{at[@]}}"
}}
delete() {{
  "${{tpu[@]}}" delete {name} --force --quiet "${{at[@]}}"
}}
train() {{
  "${{tpu[@]}}" ssh {name} --node=all --worker=all "${{at[@]}}" --command="$remote"
}}
while true; do
  now=$(state) || now=UNREACHABLE
  case "$now" in
    ACTIVE) ;;
    "") create || exit 1 ;;
    FAILED | SUSPENDED) delete || exit 1 ;;
    *) echo "{name} is $now"; sleep 30 ;;
  esac
  [ "$now" = ACTIVE ] || continue
  code=0
  train || code=$?
  # 75: the run is saved. 76: a worker is gone or hung. 255: no connection.
  # Others may be due to preempted VMs.
  case "$code" in
    0 | 1) exit "$code" ;;
    75 | 76) ;;
    *) sleep 60; [ "$code" -eq 255 ] || [ "$(state)" != ACTIVE ] || exit "$code" ;;
  esac
done
"""


def check(job: Job) -> None:
    """Raise ValueError for other accelerators, and without a zone."""
    if job.hosts.platform != "tpu":
        raise ValueError(
            f"--target=tpu has no {job.hosts.kind}; use slurm, gke or skypilot"
        )
    check_shape(job.hosts)
    if not job.zone:
        raise ValueError("--target=tpu needs --zone, such as --zone=us-east5-b")
    if job.bucket.startswith("s3:"):
        raise ValueError(f"--bucket is {job.bucket}; TPU VMs mount gs:// buckets")
    for option in job.options:
        if not option.startswith("--"):
            raise ValueError(
                f"--option is {option!r}; expected an option of `gcloud compute tpus "
                "queued-resources create`, such as --option=--reserved"
            )


def render(job: Job) -> str:
    """The script: create, wait, run on all workers, again after 75 and preemption."""
    at = [f"--zone={job.zone}"] + ([f"--project={job.project}"] if job.project else [])
    return SCRIPT.format(
        name=job.name,
        at=" ".join(map(shlex.quote, at)),
        create=shell.folded([job.name, *resource(job)], indent="    "),
        remote=shlex.quote(remote(job)),
    )


def resource(job: Job) -> list[str]:
    """Flags of the queued resource: what TPUs, how many, in which way."""
    hosts = job.hosts
    flags = [
        f"--accelerator-type={accelerator_type(hosts)}",
        f"--runtime-version={RUNTIMES[hosts.kind]}",
    ]
    if hosts.slices > 1:
        flags += [f"--node-count={hosts.slices}", f"--node-prefix={job.name}"]
    else:
        flags.append(f"--node-id={job.name}")
    if job.service_account:
        flags.append(f"--service-account={job.service_account}")
    return flags + (["--spot"] if job.spot else []) + list(job.options)


def accelerator_type(hosts: Hosts) -> str:
    """The name that counts the cores of v4 and v5p, which have two a chip."""
    cores = 2 if hosts.kind in ("v4", "v5p") else 1
    return f"{TYPES[hosts.kind]}-{cores * hosts.per_slice}"


def check_shape(hosts: Hosts) -> None:
    """Raise ValueError for a shape that `accelerator_type` does not mean."""
    usual = hardware.nearest_shape(hardware.CHIPS[hosts.kind], hosts.per_slice)
    if usual != hosts.topology:
        raise ValueError(
            f"TPU VMs are named by their number of chips, and {hosts.kind}:"
            f"{hosts.topology} has no such name; the nearest that has is {hosts.kind}:"
            f"{usual}; use --target=gke for others"
        )


def remote(job: Job) -> str:
    """What every worker runs. Its exit code is that of the training."""
    bucket, _, folder = job.bucket.removeprefix("gs://").partition("/")
    only = f" --only-dir={folder}" if folder else ""
    fuse = f"gcsfuse --implicit-dirs --rename-dir-limit=200000{only} {bucket} {MOUNT}"
    owned = f'sudo mkdir -p {MOUNT} && sudo chown "$USER" {MOUNT}'
    lines = ["set -e", *shell.exports(job.env)]
    lines += [job.setup] if job.setup else []
    if bucket:
        lines.append(f"mountpoint -q {MOUNT} || {{ {owned} && {fuse}; }}")
    lines.append(f"exec {shell.folded(job.command)}")
    return "\n".join(lines)


def commands(job: Job, ident: str = "") -> dict[str, str]:
    """How to follow and stop the job: the script shows its output."""
    at = f"--zone={job.zone}" + (f" --project={job.project}" if job.project else "")
    tpu = "gcloud compute tpus queued-resources"
    end = "--node=all --worker=all --command='pkill -TERM -f [l]aunch.train'"
    return {
        "follow": "the script shows the output of all workers",
        "stop": f"end the script with Ctrl-C, then {tpu} ssh {job.name} {at} {end}; "
        f"give the TPUs back with {tpu} delete {job.name} {at} --force",
    }
