"""GKE: a JobSet whose restarts depend on why a job ended."""

import re

from core.submit import yaml_text
from core.submit.job import MOUNT, Job

CLIENT, SUFFIX = ("kubectl", "create", "--filename=-"), ".yaml"
RESTARTS = 10
PORT = 8476
REFUSES = {
    "setup": "what it would do belongs in the image",
    "task_per_gpu": "a pod is one process with all GPUs of its node",
    "project": "kubectl has the cluster as its context",
    "zone": "kubectl has the cluster as its context",
    "options": "edit what --dry_run shows",
}
TPUS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
GPUS = {"h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}
SECRET = re.compile(r"([A-Za-z_]\w*)=([a-z0-9][a-z0-9.-]*):([\w.-]+)")
# TPU drivers lock host memory, beyond the limit that containers begin with.
LOCK_MEMORY = ["bash", "-c", 'ulimit -l 68719476736; exec "$@"', "bash"]
# Checkpoints are folders that are renamed when they are whole.
FUSE = "implicit-dirs,rename-dir-limit=200000"


def check(job: Job) -> None:
    """Raise ValueError for a job without an image, and malformed secrets."""
    if not job.image:
        raise ValueError("--target=gke needs --image=REGISTRY/NAME:TAG")
    if job.bucket.startswith("s3:"):
        raise ValueError(f"--bucket is {job.bucket}; GKE mounts gs:// buckets")
    for secret in job.secrets:
        if not SECRET.fullmatch(secret):
            raise ValueError(
                f"--secret is {secret!r}; expected NAME=SECRET:KEY, a variable and the "
                "key of a Kubernetes secret"
            )


def render(job: Job) -> str:
    return yaml_text.dump(manifest(job))


def manifest(job: Job) -> dict:
    """The JobSet: a job of pods per slice, one pod per host."""
    metadata: dict = {"name": job.name}
    if job.namespace:
        metadata["namespace"] = job.namespace
    if job.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": job.queue}
    if job.hosts.platform == "tpu":  # a slice is a node pool, and has it for itself
        key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
        metadata["annotations"] = {key: "cloud.google.com/gke-nodepool"}
    workers = {
        "name": "workers",
        "replicas": job.hosts.slices,
        "template": {"spec": job_spec(job)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": failure_policy(job),
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [workers],
        },
    }


def failure_policy(job: Job) -> dict:
    """Saved or evicted: restart, uncounted. An error of the user or the time limit: fail.

    Anything else, such as a crash, restarts the job up to `maxRestarts` times.
    """
    saved = {
        "name": "saved",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
        "onJobFailureMessagePatterns": [
            ".*exit code 75 .*",
            ".*condition DisruptionTarget .*",
        ],
    }
    failed = {
        "name": "failed",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
    }
    restarts = RESTARTS if job.restarts < 0 else job.restarts
    return {"maxRestarts": restarts, "rules": [saved, failed]}


def job_spec(job: Job) -> dict:
    """The Kubernetes job of one slice; the first pod that fails ends it."""
    codes = {"containerName": "train", "operator": "In", "values": [1, 75]}
    evicted = [{"type": "DisruptionTarget", "status": "True"}]
    annotations = {"gke-gcsfuse/volumes": "true"} if job.bucket else {}
    spec = {
        "completionMode": "Indexed",
        "parallelism": job.hosts.hosts,
        "completions": job.hosts.hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": codes},
                {"action": "FailJob", "onPodConditions": evicted},
            ]
        },
        "template": {
            **({"metadata": {"annotations": annotations}} if annotations else {}),
            "spec": pod_spec(job),
        },
    }
    if job.hours:
        spec["activeDeadlineSeconds"] = round(job.hours * 3600)
    return spec


def pod_spec(job: Job) -> dict:
    spec: dict = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace,
        "automountServiceAccountToken": False,
        "securityContext": pod_security(job),
    }
    if job.service_account:
        spec["serviceAccountName"] = job.service_account
    selector = node_selector(job)
    if selector:
        spec["nodeSelector"] = selector
    if job.spot:
        key, effect = "cloud.google.com/gke-spot", "NoSchedule"
        toleration = {"key": key, "operator": "Equal", "value": "true"}
        spec["tolerations"] = [{**toleration, "effect": effect}]
    spec["containers"] = [container(job)]
    spec["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    spec["volumes"] += [storage(job)] if is_mounted(job) else []
    return spec


def pod_security(job: Job) -> dict:
    """TPU devices belong to root; all other pods run as a user without rights."""
    context: dict = {"seccompProfile": {"type": "RuntimeDefault"}}
    if job.hosts.platform != "tpu":
        user = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000}
        context |= {**user, "fsGroup": 1000}
    return context


def node_selector(job: Job) -> dict[str, str]:
    hosts, selector = job.hosts, {}
    if hosts.platform == "tpu":
        selector["cloud.google.com/gke-tpu-accelerator"] = TPUS[hosts.kind]
        selector["cloud.google.com/gke-tpu-topology"] = hosts.topology
    elif hosts.platform == "gpu":
        selector["cloud.google.com/gke-accelerator"] = GPUS[hosts.kind]
    if job.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    return selector


def container(job: Job) -> dict:
    """The training as the first process, which gets the signals of Kubernetes."""
    tpu = job.hosts.platform == "tpu"
    capabilities = {"drop": ["ALL"], **({"add": ["SYS_RESOURCE"]} if tpu else {})}
    command = [*(LOCK_MEMORY if tpu else []), *map(escape, job.command)]
    resources: dict = {}
    if job.cpus:
        resources["requests"] = {"cpu": str(job.cpus)}
    if job.hosts.platform != "cpu":
        device = "google.com/tpu" if tpu else "nvidia.com/gpu"
        resources["limits"] = {device: str(job.hosts.chips)}
    variables = environment(job)
    return {
        "name": "train",
        "image": job.image,
        "command": command,
        **({"env": variables} if variables else {}),
        **({"resources": resources} if resources else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": capabilities,
        },
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            *([{"name": "runs", "mountPath": MOUNT}] if is_mounted(job) else []),
        ],
    }


def escape(text: str) -> str:
    """Kubernetes replaces $(NAME) in commands and values, and $$ is its escape."""
    return text.replace("$(", "$$(")


def environment(job: Job) -> list[dict]:
    """Variables, secrets by reference, and where GKE sets no others, the processes."""
    variables: list[dict] = [
        {"name": name, "value": escape(value)} for name, value in job.env
    ]
    for secret in job.secrets:
        name, source, key = SECRET.findall(secret)[0]
        reference = {"secretKeyRef": {"name": source, "key": key}}
        variables.append({"name": name, "valueFrom": reference})
    if job.hosts.platform != "tpu" and job.hosts.nodes > 1:
        first = f"{job.name}-workers-0-0.{job.name}:{PORT}"
        path = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        index = {"fieldRef": {"fieldPath": path}}
        variables += [
            {"name": "JAX_COORDINATOR_ADDRESS", "value": first},
            {"name": "JAX_NUM_PROCESSES", "value": str(job.hosts.nodes)},
            {"name": "JAX_PROCESS_ID", "valueFrom": index},
        ]
    return variables


def is_mounted(job: Job) -> bool:
    """Whether the workdir is on a mount; else the training writes to the bucket itself."""
    return bool(job.bucket or job.claim)


def storage(job: Job) -> dict:
    """The volume of the workdir."""
    if job.claim:
        return {"name": "runs", "persistentVolumeClaim": {"claimName": job.claim}}
    name, _, folder = job.bucket.removeprefix("gs://").partition("/")
    options = FUSE + (f",only-dir={folder}" if folder else "")
    if job.hosts.platform != "tpu":
        options += ",uid=1000,gid=1000"
    attributes = {"bucketName": name, "mountOptions": options}
    csi = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
    return {"name": "runs", "csi": csi}


def commands(job: Job, ident: str = "") -> dict[str, str]:
    """How to follow and stop the job."""
    kubectl = f"kubectl --namespace={job.namespace}" if job.namespace else "kubectl"
    label = f"jobset.sigs.k8s.io/jobset-name={job.name}"
    many = f"--prefix --max-log-requests={job.hosts.nodes}"
    return {
        "follow": f"{kubectl} logs --follow {many} --selector={label}",
        "stop": f"{kubectl} delete jobset {job.name}",
    }
