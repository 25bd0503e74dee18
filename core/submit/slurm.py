"""Slurm: an sbatch script that requeues itself whenever the run was saved."""

import re

from core.submit import shell
from core.submit.job import Job

CLIENT, SUFFIX = ("sbatch", "--parsable"), ".sbatch"
REFUSES = {
    "image": "the job runs in the environment that --setup activates",
    "bucket": "the workdir is a folder of the shared file system",
    "claim": "the workdir is a folder of the shared file system",
    "restarts": "a saved job is requeued without limit, a failed one never",
    "spot": "preemption belongs to a partition; name one with --queue",
    "namespace": "Slurm has none",
    "zone": "Slurm has none",
    "project": "write --option=--account=NAME",
    "service_account": "the job runs as you",
    "secrets": "sbatch passes your environment on; export the variable before",
}
OPTION = re.compile(r"--[a-z][a-z-]*(=[\w.,:@%/+*()&|-]+)?")
SCRIPT = """\
{setup}
# After a signal the script goes on when srun has ended.
trap : TERM
code=0
srun {srun} {train} || code=$?
# The run is saved: start it again, unless Requeue=0 forbids it.
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
"""


def check(job: Job) -> None:
    """Raise ValueError for TPUs and malformed options of sbatch."""
    if job.hosts.platform == "tpu":
        raise ValueError(
            f"--target=slurm has no {job.hosts.kind}; use gke, tpu or skypilot for TPUs"
        )
    for option in job.options:
        if not OPTION.fullmatch(option):
            raise ValueError(
                f"--option is {option!r}; expected an option of sbatch, such as "
                "--option=--mem=0"
            )


def render(job: Job) -> str:
    """The script. A signal comes `grace` seconds before the time limit, to the tasks."""
    options = ["#!/bin/bash", *(f"#SBATCH {option}" for option in sbatch_options(job))]
    setup = ["set -eo pipefail", *shell.exports(job.env)]
    setup += [job.setup] if job.setup else []
    # Tasks that end one after the other are left that time, too.
    srun = f"--kill-on-bad-exit=0 --wait={job.grace}"
    if job.cpus:
        srun += f" --cpus-per-task={job.cpus}"
    train = shell.folded(job.command)
    text = SCRIPT.format(setup="\n".join(setup), srun=srun, train=train)
    return "\n".join(options) + "\n" + text


def sbatch_options(job: Job) -> list[str]:
    hosts = job.hosts
    tasks = hosts.chips if job.task_per_gpu else 1
    options = [
        f"--job-name={job.name}",
        f"--output={job.name}-%j.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=TERM@{job.grace}",
        f"--nodes={hosts.nodes}",
        f"--ntasks-per-node={tasks}",
    ]
    if hosts.platform == "gpu":
        options.append(f"--gpus-per-node={hosts.kind}:{hosts.chips}")
    if job.cpus:
        options.append(f"--cpus-per-task={job.cpus}")
    if job.hours:
        options.append(f"--time={round(job.hours * 60)}")
    if job.queue:
        options.append(f"--partition={job.queue}")
    return options + list(job.options)


def commands(job: Job, ident: str = "JOB") -> dict[str, str]:
    """How to follow, stop and resume a job that sbatch gave the number `ident`."""
    stop = f"scontrol update JobId={ident} Requeue=0 && scancel --signal=TERM {ident}"
    return {"follow": f"tail -F {job.name}-{ident}.log", "stop": stop}
