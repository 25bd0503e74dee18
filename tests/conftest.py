"""Eight virtual CPU devices, and compiled programs kept for the session."""

import atexit
import gc
import os
import shutil
import tempfile

from small import QUICK

if "PYTEST_XDIST_WORKER" not in os.environ:  # those inherit what is set here
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count=8 {QUICK}"
    )
    # Fresh for every session: what a compiler says is said once.
    folder = tempfile.mkdtemp(prefix="reverie-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Operations of a program do not name their lines: a tenth less to trace and lower.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

# Modules are not garbage: tracing makes many objects, and each collection visits all.
gc.set_threshold(50_000, 20, 50)


# Files whose tests take longest, by CPU time. They begin first, so that no worker trains
# alone at the end.
SLOW = (
    "test_distributed.py",
    "test_meshes.py",
    "test_resume.py",
    "test_distill.py",
    "test_agent.py",
    "test_evaluate_export.py",
    "test_behavior.py",
    "test_offline.py",
    "test_docs.py",
    "test_buckets.py",
    "test_pldm.py",
    "test_bench.py",
    "test_bad_input.py",
    "test_prepare_videos.py",
    "test_forecast.py",
    "test_start.py",
)


def pytest_collection_modifyitems(items):
    order = {name: i for i, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.name, len(SLOW)))


def pytest_collection_finish():
    gc.freeze()
