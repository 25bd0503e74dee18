"""Clients that check what is rendered without a cloud, where they are installed."""

import importlib.util
import json
import shlex
import shutil
import subprocess

import pytest

from core.submit import gke, skypilot, tpu
from core.submit.hosts import read
from core.submit.job import Job

JOB = Job(
    "a", read("v5p:4x4x4", slices=2), ("--x",), bucket="gs://b", zone="z", spot=True
)


@pytest.mark.parametrize("target", [gke, skypilot, tpu])
def test_a_workdir_in_a_bucket_needs_no_mount(target):
    job = JOB._replace(bucket="", image="r/i", flags=("--workdir=gs://b/a",))
    text = target.render(job)
    assert "--workdir=gs://b/a" in text and "/mnt/runs" not in text
    assert "/mnt/runs" in target.render(JOB._replace(image="r/i"))


@pytest.mark.skipif(not shutil.which("gcloud"), reason="needs gcloud")
def test_gcloud_knows_the_commands():
    flags = shlex.join(tpu.resource(JOB._replace(service_account="s")))
    commands = [
        f"create a {flags} --zone=z",
        "ssh a --node=all --worker=all --command=x",
    ]
    for command in commands:
        whole = f"gcloud compute tpus queued-resources {command}"
        lint = ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={whole}"]
        done = subprocess.run(lint, capture_output=True, text=True, check=True)
        (answer,) = json.loads(done.stdout)
        assert answer["success"], answer["error_message"]


@pytest.mark.skipif(not importlib.util.find_spec("sky"), reason="needs SkyPilot")
@pytest.mark.parametrize(
    ("accelerator", "nodes"), [("h100:2x8", 2), ("v6e:4x4", 1), ("cpu:2x1", 2)]
)
def test_skypilot_parses_the_task(accelerator, nodes, tmp_path):
    import sky

    env, place = (("A", 'x: "y"'),), "gcp/us-central1"
    job = JOB._replace(hosts=read(accelerator), env=env, zone=place, secrets=("B",))
    (tmp_path / "task.yaml").write_text(skypilot.render(job))
    task = sky.Task.from_yaml(str(tmp_path / "task.yaml"))
    assert task.num_nodes == nodes and task.envs["A"] == 'x: "y"'
    (resources,) = task.resources
    assert resources.use_spot and resources.job_recovery["recover_on_exit_codes"] == [
        75
    ]


@pytest.mark.parametrize(
    ("accelerator", "name"),
    [("v4:2x2x4", "v4-32"), ("v5e:4x4", "v5litepod-16"), ("2xv5p:4x4x4", "v5p-128")],
)
def test_names_of_tpus(accelerator, name):
    """As Google's pages on TPU types have them: v4 and v5p by cores, others by chips."""
    assert tpu.accelerator_type(read(accelerator)) == name
