"""The processes of a job, found in what schedulers are documented to set."""

import http.server
import threading

import pytest

from core.parallel import discovery, distributed
from core.parallel.discovery import Processes

# A step of srun on two nodes with two tasks each, from a Slurm 22.05 cluster.
SLURM = {
    "SLURM_JOB_ID": "4098",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
GKE = {
    "TPU_WORKER_HOSTNAMES": "a-0.a,a-1.a",
    "TPU_WORKER_ID": "1",
    "MEGASCALE_NUM_SLICES": "3",
    "MEGASCALE_SLICE_ID": "2",
    "MEGASCALE_COORDINATOR_ADDRESS": "j-0-0.j:8080",
}
OURS = {
    "JAX_COORDINATOR_ADDRESS": "h:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
GPUS = {"CUDA_VISIBLE_DEVICES": "0,1"}


# JAX takes 61440 + job % 4096 as port under Slurm, and 8482 on TPUs.
@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "4098", "SLURM_NTASKS": "4"}, None),  # a batch script
        (SLURM, Processes("Slurm job 4098", 4, 3, "gpu007:61442")),
        (SLURM | GPUS, Processes("Slurm job 4098", 4, 3, "gpu007:61442", (1,))),
        (
            SLURM | GPUS | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"},
            Processes("Slurm job 4098", 4, 3, "gpu007:61442"),
        ),
        (
            SLURM | {"SLURM_STEP_NODELIST": "n7,m[1-3]"},
            Processes("Slurm job 4098", 4, 3, "n7:61442"),
        ),
        (
            SLURM | {"JAX_COORDINATOR_ADDRESS": "ib0:5"},
            Processes("Slurm job 4098", 4, 3, "ib0:5"),
        ),
        (MPI, Processes("Open MPI", 2, 1, "10.96.0.1:62624")),
        (GKE, Processes("GKE", 6, 5, "j-0-0.j:8482")),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (OURS | SLURM, Processes("environment", 2, 1, "h:1")),
    ],
)
def test_schedulers(environment, found):
    assert discovery.find(environment) == found


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JAX_PROCESS_ID": "1"}, "JAX_PROCESS_ID but not JAX_COORDINATOR_ADDRESS and"),
        (OURS | {"JAX_PROCESS_ID": "2"}, "this is process 2 of 2; expected 0 to 1"),
        (OURS | {"JAX_NUM_PROCESSES": "x"}, "JAX_NUM_PROCESSES is 'x'"),
        (SLURM | {"SLURM_PROCID": ""}, "SLURM_PROCID is ''.*such as srun"),
        (MPI | {"OMPI_MCA_orte_hnp_uri": ""}, "set JAX_COORDINATOR_ADDRESS=HOST:PORT"),
    ],
)
def test_what_is_incomplete(environment, words):
    with pytest.raises(ValueError, match=words):
        discovery.find(environment)


class Metadata(http.server.BaseHTTPRequestHandler):
    ANSWERS = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "x:0:10.0.0.2,x:1:10.0.0.3",
        "tpu-env": "ZONE: 'us'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.9.0.1:8080'\n",
    }

    def do_GET(self):
        assert self.headers["Metadata-Flavor"] == "Google"
        text = self.ANSWERS[self.path.split("/")[-1]].encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def test_tpu_vms_ask_their_metadata_server(monkeypatch, tmp_path):
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(discovery, "TPU_FILES", (str(tmp_path / "accel[0-9]*"),))
    monkeypatch.setattr(discovery.importlib.util, "find_spec", lambda name: True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = {"GCE_METADATA_HOST": f"127.0.0.1:{server.server_port}"}
        assert discovery.find(place) == Processes("TPU VMs", 4, 3, "10.9.0.1:8482")
        assert discovery.find(place | {"TPU_SKIP_MDS_QUERY": "1"}) is None
        server.shutdown()
    assert discovery.find(place) is None  # nobody answers


def test_the_log_line():
    found = Processes("Slurm job 123", 4, 2, "n0:61563")
    text = "4 processes (Slurm job 123), this is 2, coordinator n0:61563"
    assert distributed.summary(found) == text


def test_flags_that_disagree_with_the_scheduler():
    flags = Processes("flags", 8, 0, "h:1")
    with pytest.raises(
        ValueError, match="is 8, but Slurm job 4098 started 4 processes"
    ):
        distributed.check_count(flags, SLURM)
    distributed.check_count(flags, SLURM | {"SLURM_STEP_NUM_TASKS": "1"})
    distributed.check_count(flags, {})
