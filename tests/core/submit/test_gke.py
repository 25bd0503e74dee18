"""JobSets have only fields that Kubernetes and JobSet publish, and restart as they should."""

import json
import re

import pytest
import yaml
from small import ROOT

from core.submit import gke, yaml_text
from core.submit.hosts import read
from core.submit.job import Job

SCHEMA = json.loads((ROOT / "tests/fixtures/jobset/schema.json").read_text())
# From the API reference of JobSet v1alpha2 and of batch/v1.
ENUMS = {
    ("FailurePolicyRule", "action"): {
        "FailJobSet",
        "RestartJobSet",
        "RestartJobSetAndIgnoreMaxRestarts",
        "RestartJob",
        "RestartJobAndIgnoreMaxRestarts",
    },
    ("PodFailurePolicyRule", "action"): {"FailJob", "FailIndex", "Ignore", "Count"},
    ("PodFailurePolicyOnExitCodesRequirement", "operator"): {"In", "NotIn"},
    ("JobSpec", "completionMode"): {"Indexed", "NonIndexed"},
    ("PodSpec", "restartPolicy"): {"Never"},  # of those, what podFailurePolicy allows
    ("Toleration", "operator"): {"Equal", "Exists"},
    ("Toleration", "effect"): {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    ("SeccompProfile", "type"): {"RuntimeDefault", "Localhost", "Unconfined"},
}
SCALARS = {"string": str, "integer": int, "boolean": bool}
TRAIN = ("--config=configs/jepa.py:v2_l", "--workdir=/mnt/runs/a")
BASE = Job(
    name="a", hosts=read("h100:2x8"), flags=TRAIN, image="r/i:1", bucket="gs://b"
)


def wrong(value, kind: str, at: str = "") -> list[str]:
    """What in a manifest the schema does not allow: unknown fields, types, gaps."""
    if kind.startswith("list of "):
        if type(value) is not list:
            return [f"{at} is no list"]
        inner = kind.removeprefix("list of ")
        return [x for i, v in enumerate(value) for x in wrong(v, inner, f"{at}[{i}]")]
    if kind.startswith("map of "):
        inner = kind.removeprefix("map of ")
        return [x for k, v in value.items() for x in wrong(v, inner, f"{at}.{k}")]
    if kind == "any":
        return []
    if kind in SCALARS:
        return [] if type(value) is SCALARS[kind] else [f"{at} is no {kind}"]
    if type(value) is not dict:
        return [f"{at} is no {kind}"]
    fields, found = SCHEMA[kind]["fields"], []
    found += [
        f"{at}.{name} is missing"
        for name in SCHEMA[kind]["required"]
        if name not in value
    ]
    for name, inner in value.items():
        allowed = ENUMS.get((kind, name))
        if name not in fields:
            found.append(f"{at}.{name} is unknown")
        elif allowed and inner not in allowed:
            found.append(f"{at}.{name} is {inner}")
        else:
            found += wrong(inner, fields[name], f"{at}.{name}")
    return found


JOBS = {
    "gpus": BASE,
    "tpus": BASE._replace(
        hosts=read("2xv5e:16x16"),
        bucket="gs://b/deep/er",
        queue="tpus",
        namespace="team",
        spot=True,
        hours=12.5,
        service_account="trainer",
        secrets=("HF_TOKEN=hf:token",),
        env=(("A", 'it\'s $(HOME) "x"'), ("B", "true")),
    ),
    "no mount": BASE._replace(bucket="", flags=("--workdir=gs://b/a",)),
    "cpus": BASE._replace(
        hosts=read("cpu:1x4"), bucket="", claim="nfs", cpus=4, restarts=0, grace_s=600
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_manifests_follow_the_published_schemas(name):
    job = JOBS[name]
    gke.check(job)
    manifest = yaml.safe_load(gke.render(job))
    assert manifest == gke.manifest(job)  # YAML means what was written
    assert wrong(manifest, "JobSet") == []
    assert "privileged:" not in gke.render(job)


def test_the_schemas_are_strict():
    manifest = gke.manifest(BASE)
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["containers"][0]["imagePullPolice"] = "Always"
    pod["terminationGracePeriodSeconds"] = "120"
    manifest["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
    del pod["volumes"][0]["name"]
    assert len(wrong(manifest, "JobSet")) == 4


def outcome(policy: dict, rules: list, *, code=None, condition=None) -> str:
    """What JobSet does when a pod ends: rules in order, messages as Kubernetes has them."""
    reason, message = "BackoffLimitExceeded", "Job has reached the limit"
    for i, rule in enumerate(rules):
        codes = rule.get("onExitCodes", {}).get("values", [])
        types = [pattern["type"] for pattern in rule.get("onPodConditions", [])]
        if code in codes and code is not None:
            text = (
                f"Container train for pod ns/a-0 failed with exit code {code} matching "
            )
        elif condition in types and condition:
            text = f"Pod ns/a-0 has condition {condition} matching "
        else:
            continue
        reason, message = "PodFailurePolicy", f"{text}FailJob rule at index {i}"
        break
    return by_job(policy, reason, message)


def by_job(policy: dict, reason: str, message: str = "") -> str:
    for rule in policy["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [".*"])
        if reason in rule["onJobFailureReasons"]:
            if any(re.fullmatch(pattern, message) for pattern in patterns):
                return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_what_restarts(job):
    spec = gke.manifest(job)["spec"]
    policy = spec["failurePolicy"]
    pods = spec["replicatedJobs"][0]["template"]["spec"]
    rules, free = pods["podFailurePolicy"]["rules"], "RestartJobSetAndIgnoreMaxRestarts"
    assert outcome(policy, rules, code=75) == free
    assert outcome(policy, rules, code=137, condition="DisruptionTarget") == free
    assert outcome(policy, rules, condition="DisruptionTarget") == free
    assert outcome(policy, rules, code=1) == "FailJobSet"
    assert outcome(policy, rules, code=134) == "RestartJobSet"
    assert by_job(policy, "DeadlineExceeded") == "FailJobSet"
    assert pods["backoffLimit"] == 0
    assert policy["maxRestarts"] == {0: 0, -1: 10}[job.restarts]


def test_slices_are_replicas_of_whole_node_pools():
    manifest = gke.manifest(JOBS["tpus"])
    (workers,) = manifest["spec"]["replicatedJobs"]
    pods = workers["template"]["spec"]
    pod = pods["template"]["spec"]
    assert (workers["replicas"], pods["parallelism"], pods["completions"]) == (
        2,
        64,
        64,
    )
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
        "cloud.google.com/gke-spot": "true",
    }
    (train,) = pod["containers"]
    assert train["resources"]["limits"] == {"google.com/tpu": "4"}
    assert train["command"][-5:] == ["python", "-m", "launch.train", *TRAIN]
    by_name = {v["name"]: v for v in train["env"]}
    assert by_name["A"]["value"] == 'it\'s $$(HOME) "x"'  # not expanded by Kubernetes
    reference = {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert by_name["HF_TOKEN"] == {"name": "HF_TOKEN", "valueFrom": reference}
    assert "JAX_PROCESS_ID" not in by_name  # GKE numbers TPU workers itself
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "tpus"}
    assert pods["activeDeadlineSeconds"] == 45000


def test_gpu_pods_find_each_other():
    (workers,) = gke.manifest(BASE)["spec"]["replicatedJobs"]
    pod = workers["template"]["spec"]["template"]["spec"]
    found = {v["name"]: v.get("value") for v in pod["containers"][0]["env"]}
    # JobSet names pods JOBSET-JOB-INDEX-POD.SUBDOMAIN, the subdomain being its own name.
    assert found["JAX_COORDINATOR_ADDRESS"] == "a-workers-0-0.a:8476"
    assert found["JAX_NUM_PROCESSES"] == "2"
    assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    "value",
    [
        {"a": "yes", "b": "NO", "c": "1e3", "d": "", "e": "a: b", "f": "#x", "g": "~"},
        {"a": ["- x", "x #y", "'", '"', "\\", "a\tb", "é", "0x1"], "b": [], "c": {}},
        {"a": [{"b": [1, {"c": None}], "d": {"e": True}}], "f": "l1\n  l2\n\nl4\n"},
        {"key: x": 1.5, "on": "off", "y": "2020-01-01", "z": "1_000"},
        [["a", ["b"]], []],
    ],
)
def test_yaml_reads_back(value):
    assert yaml.safe_load(yaml_text.dump(value)) == value
