"""The description of a job, which every target renders in its own way."""

import re
from typing import NamedTuple

from core.base.buckets import is_bucket
from core.submit.hosts import Hosts

MOUNT = "/mnt/runs"  # where machines see the bucket or the volume of a job
GRACE_S = 120  # from the request to stop until processes are killed
# Names and values of environment variables that are secrets.
SECRET_NAME = re.compile(
    r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)|_KEY_ID$", re.IGNORECASE
)
SECRET_VALUE = re.compile(
    r"(^|\W)(hf_\w{20}|gh[pousr]_\w{20}|github_pat_\w{20}|sk-[\w-]{20}|AKIA\w{12}"
    r"|AIza[\w-]{30}|ya29\.[\w-]{20}|xox[bp]-\w{10}|eyJ[\w-]{15,}\.)|-----BEGIN"
    r"|[?&](X-Amz-Signature|X-Goog-Signature|sig|token)=|://[^/@\s:]+:[^/@\s]+@"
)
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


class Job(NamedTuple):
    """One job; a field that its target cannot honour must have its default."""

    name: str
    hosts: Hosts
    flags: tuple[str, ...]  # of launch.train
    setup: str = ""  # shell command that runs before the training
    image: str = ""  # container
    bucket: str = ""  # mounted at MOUNT
    claim: str = ""  # persistent volume claim, mounted there
    hours: float = 0.0  # time limit; 0: none
    grace_s: int = 0  # 0: GRACE_S
    restarts: int = (
        -1
    )  # after a failure that is not the user's; -1: the target's default
    spot: bool = False
    task_per_gpu: bool = False
    cpus: int = 0  # of each process
    queue: str = ""
    namespace: str = ""
    zone: str = ""
    project: str = ""
    service_account: str = ""
    options: tuple[str, ...] = ()  # of the scheduler
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The command of every process, the same on all targets."""
        return ["python", "-m", "launch.train", *self.flags]

    @property
    def grace(self) -> int:
        return self.grace_s or GRACE_S


# Fields whose flags have another name.
FLAGS = {"options": "option", "secrets": "secret"}


def check(job: Job, target: str, refuses: dict[str, str]) -> None:
    """Raise ValueError for a wrong description, or a field that the target refuses.

    refuses: {field: what to do instead}.
    """
    if not NAME.fullmatch(job.name):
        raise ValueError(
            f"--name is {job.name!r}; expected up to 40 lower-case letters, digits and "
            "'-', beginning with a letter"
        )
    for field, remedy in refuses.items():
        if getattr(job, field) != Job._field_defaults[field]:
            raise ValueError(
                f"--target={target} cannot honour --{FLAGS.get(field, field)}: {remedy}"
            )
    for field in ("hours", "grace_s", "cpus"):
        if getattr(job, field) < 0:
            raise ValueError(
                f"--{field} is {getattr(job, field)}; expected more than 0"
            )
    if job.task_per_gpu and job.hosts.platform != "gpu":
        raise ValueError(
            f"--task_per_gpu is for GPUs; {job.hosts.kind} has one process per host"
        )
    check_words(job)
    check_no_secrets(job)


def check_words(job: Job) -> None:
    """Values that become words of scripts: nothing that a shell would interpret."""
    for field in ("queue", "namespace", "zone", "project", "service_account", "claim"):
        value = getattr(job, field)
        if value and not re.fullmatch(r"[\w.@/:*-]+", value):
            raise ValueError(f"--{field} is {value!r}; expected a name")
    if job.image and not re.fullmatch(r"[\w.@/:-]+", job.image):
        raise ValueError(f"--image is {job.image!r}; expected REGISTRY/NAME:TAG")
    if job.bucket and not re.fullmatch(r"(gs|s3)://[\w.-]+(/[\w./-]+)?", job.bucket):
        raise ValueError(f"--bucket is {job.bucket!r}; expected gs://NAME or s3://NAME")
    for name, _ in job.env:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"--env: {name!r} is no name; expected --env=NAME=VALUE")
    for text in (job.setup, *job.flags, *(value for _, value in job.env)):
        if "\0" in text or ("\n" in text and text != job.setup):
            raise ValueError(f"{text!r} has a line break; write it in one line")


def check_no_secrets(job: Job) -> None:
    """What is rendered is shown, logged and stored, so no secret may be in it."""
    for name, value in job.env:
        if SECRET_NAME.search(name) or SECRET_VALUE.search(value):
            raise ValueError(
                f"--env={name}=... looks like a secret; give a reference to it with "
                "--secret (docs/clusters.md), never its value"
            )
    for text in (job.setup, *job.flags):
        if SECRET_VALUE.search(text):
            name = text.split("=")[0] if text != job.setup else "--setup"
            raise ValueError(
                f"the value of {name} looks like a secret, which everyone who sees the "
                "job could read; pass it in an environment variable with --secret"
            )


def needs_mount(job: Job, target: str, workdir: str) -> None:
    """Raise ValueError unless the workdir outlives the machines of a cloud job."""
    flags = "--bucket=gs://NAME" + (" or --claim=NAME" if target == "gke" else "")
    if is_bucket(workdir):
        if job.bucket or job.claim:
            raise ValueError(
                f"--workdir is {workdir}, which is written without a mount; leave out "
                "--bucket and --claim"
            )
        return
    if not (job.bucket or job.claim):
        raise ValueError(
            f"the machines of --target={target} lose their disks; give {flags}, which is "
            f"mounted at {MOUNT}, and --workdir={MOUNT}/NAME"
        )
    if job.bucket and job.claim:
        raise ValueError(
            "--bucket and --claim are both mounted there; give one of them"
        )
    if not workdir.startswith(f"{MOUNT}/"):
        raise ValueError(
            f"--workdir is {workdir}, which is not on {job.bucket or job.claim}; that is "
            f"mounted at {MOUNT}, so write --workdir={MOUNT}/NAME"
        )
