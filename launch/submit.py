"""Render a training job for a scheduler and submit it: --target=... -- TRAIN_FLAGS."""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile

from absl import flags

from launch import cli

TARGETS = ("slurm", "gke", "tpu", "skypilot", "local")

TARGET = flags.DEFINE_enum("target", None, TARGETS, "Who runs the job")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only show what would be submitted")
ACCELERATOR = flags.DEFINE_string(
    "accelerator", None, "v5e:4x4, 2xv5p:4x4x4, h100:HOSTSxGPUS or cpu:HOSTSxDEVICES"
)
COUNT = flags.DEFINE_integer("count", None, "Number of chips, if not in --accelerator")
SLICES = flags.DEFINE_integer("slices", 1, "Number of TPU slices")
# Flags of the fields of core/submit/job.py:Job that have the same names.
FIELDS = [
    flags.DEFINE_string("name", "reverie", "Name of the job"),
    flags.DEFINE_string(
        "setup", None, "Shell command that makes the environment (slurm, tpu, skypilot)"
    ),
    flags.DEFINE_string("image", None, "Container image (gke, skypilot)"),
    flags.DEFINE_string("bucket", None, "gs://NAME, mounted at /mnt/runs (clouds)"),
    flags.DEFINE_string("claim", None, "Persistent volume claim, likewise (gke)"),
    flags.DEFINE_float("hours", None, "Time limit (slurm, gke)"),
    flags.DEFINE_integer(
        "grace_s", None, "Seconds to save in, by default 120 (slurm, gke, local)"
    ),
    flags.DEFINE_integer(
        "restarts", None, "Restarts after crashes (gke, skypilot), after saves (local)"
    ),
    flags.DEFINE_bool("spot", False, "Preemptible machines (gke, tpu, skypilot)"),
    flags.DEFINE_bool(
        "task_per_gpu", False, "One process per GPU, not per host (slurm)"
    ),
    flags.DEFINE_integer("cpus", None, "CPUs of a process (slurm, gke, skypilot)"),
    flags.DEFINE_string("queue", None, "Partition (slurm), queue of Kueue (gke)"),
    flags.DEFINE_string("namespace", None, "Namespace of Kubernetes (gke)"),
    flags.DEFINE_string("zone", None, "Zone (tpu), CLOUD/REGION/ZONE (skypilot)"),
    flags.DEFINE_string("project", None, "Google Cloud project (tpu)"),
    flags.DEFINE_string("service_account", None, "Account of the job (gke, tpu)"),
]
OPTIONS = flags.DEFINE_multi_string(
    "option", [], "Option of sbatch (slurm) or of the queued resource (tpu); repeatable"
)
ENV = flags.DEFINE_multi_string("env", [], "NAME=VALUE of a variable; repeatable")
SECRETS = flags.DEFINE_multi_string(
    "secret", [], "NAME=SECRET:KEY (gke) or NAME of a variable (skypilot); repeatable"
)
TRAIN_FLAGS = cli.define_passed_flags()
# The processes of a job are numbered by its target.
NUMBERED = ("coordinator", "num_processes", "process_id")


def main():
    if not TARGET.value or not ACCELERATOR.value:
        raise ValueError(
            "--target=" + "|".join(TARGETS) + " and --accelerator=KIND:SHAPE are needed"
        )
    from core.submit import job as jobs

    target = importlib.import_module(f"core.submit.{TARGET.value}")
    job = described()
    config, workdir = train_flags(job.flags)
    jobs.check(job, TARGET.value, target.REFUSES)
    target.check(job)
    if TARGET.value in ("gke", "tpu", "skypilot"):
        jobs.needs_mount(job, TARGET.value, workdir)
    check_mesh(config, job.hosts)
    text = target.render(job)
    if DRY_RUN.value:
        print(text, end="", flush=True)
        tell(target.commands(job), sys.stderr)
        return cli.DONE
    if TARGET.value == "local":
        return target.run(job)
    return submit(target, job, text)


def described():
    """The Job of the flags."""
    from core.submit.hosts import read
    from core.submit.job import Job

    for pair in ENV.value:
        if "=" not in pair:
            raise ValueError(f"--env is {pair!r}; expected --env=NAME=VALUE")
    given = {flag.name: flag.value for flag in FIELDS if flag.value is not None}
    return Job(
        hosts=read(ACCELERATOR.value, COUNT.value, SLICES.value),
        flags=tuple(TRAIN_FLAGS.value),
        options=tuple(OPTIONS.value),
        env=tuple(tuple(pair.split("=", 1)) for pair in ENV.value),
        secrets=tuple(SECRETS.value),
        **given,
    )


def train_flags(words):
    """(config, workdir) of the flags behind `--`, which are those of launch.train.

    Raises ValueError for what launch.train would refuse.
    """
    from core.base.buckets import is_bucket
    from core.base.places import local_folder
    from launch import train

    known = flags.FlagValues()
    for flag in flags.FLAGS.flags_by_module_dict()[train.__name__]:
        known[flag.name] = flag
    cli.parse([train.__name__, *words], known)
    if train.CONFIG.value is None or not train.WORKDIR.value:
        raise ValueError(
            "--config=FILE[:preset] and --workdir=DIR of launch.train are needed behind "
            "'--'"
        )
    for name in NUMBERED:
        if known[name].value is not None:
            raise ValueError(f"--{name} is set by the target; leave it out")
    if not is_bucket(train.WORKDIR.value):
        local_folder(train.WORKDIR.value, what="--workdir")
    return train.CONFIG.value, train.WORKDIR.value


def check_mesh(config, hosts) -> None:
    """Raise ValueError if the mesh of a config does not fit the devices of the job."""
    from core.parallel.mesh import mesh_shape

    replica, *_ = mesh_shape(config.mesh.to_dict(), hosts.devices)
    if replica % hosts.slices:
        raise ValueError(
            f"mesh.replica is {replica} but there are {hosts.slices} TPU slices; use "
            f"{hosts.slices}"
        )


def submit(target, job, text: str) -> int:
    """Hand the rendered job to the client of its target, and print what can be done."""
    client = target.CLIENT[0]
    if shutil.which(client) is None:
        raise ValueError(
            f"--target={TARGET.value} needs the command {client}, which is not installed "
            "here; --dry_run shows the job, to be submitted elsewhere"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"{job.name}{target.SUFFIX}")
        with open(path, "w") as file:
            file.write(text)
        return hand_over(target, job, path)


def hand_over(target, job, path: str) -> int:
    """Run the client on the rendered file; the script of TPU VMs is the client."""
    if TARGET.value == "tpu":
        tell(target.commands(job))
        return subprocess.run(["bash", path]).returncode
    command = list(target.CLIENT)
    if TARGET.value == "skypilot":
        command += [*(f"--secret={name}" for name in job.secrets), path]
    shown = subprocess.PIPE if TARGET.value == "slurm" else None
    with open(path) as file:
        done = subprocess.run(command, stdin=file, text=True, stdout=shown)
    if done.returncode:
        raise ValueError(f"{target.CLIENT[0]} refused the job, see above")
    # sbatch --parsable prints NUMBER or NUMBER;CLUSTER.
    ident = (done.stdout or "").strip().split(";")[0]
    print(f"{job.name} is submitted" + (f" as job {ident}" if ident else ""))
    tell(target.commands(job, ident))
    return cli.DONE


def tell(commands: dict[str, str], file=None) -> None:
    """How to follow, stop and resume a job."""
    for what, command in commands.items():
        print(f"{what}: {command}", file=file)
    print("resume: submit it again with the same command", file=file, flush=True)


if __name__ == "__main__":
    cli.run(main)
