"""Layouts split large arrays and report replicated ones; any mesh restores a checkpoint."""

import os

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from small import ROOT, small

from configs.jepa import get_config
from core.config import load_method
from core.parallel.batches import host_shard
from core.parallel.layout_report import layout_report
from core.parallel.layouts import shardings
from core.parallel.mesh import AXES, make_mesh
from core.program import build_program
from core.runs import checkpoint
from launch.config import load as load_config
from launch.config import presets_with_machines

STEPS = 3


def small_program(mesh):
    """The program of a small run on a mesh of the first devices."""
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    placed = make_mesh(devices=devices, **mesh)
    return build_program(load_method(small()), placed, seed=0)


def test_any_mesh_restores_a_checkpoint(tmp_path):
    wide, narrow = small_program({"fsdp": 8}), small_program({"fsdp": 2, "tensor": 2})
    state = wide.create()
    last = jax.device_put(np.int32(STEPS), wide.layouts.step)
    state = state.replace(step=last)
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(STEPS, state, {"next_index": 8 * STEPS})
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        again, cursor = checkpoints.restore(narrow.shapes, narrow.layouts)
    assert cursor == {"next_index": 8 * STEPS}
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (again, state)))
    layouts = jax.tree.map(lambda x: x.sharding, again)
    assert layouts == narrow.layouts


@pytest.mark.parametrize("size", ["v1_h", "v2_l", "v2_g"])
def test_published_sizes_replicate_nothing_large(size):
    mesh = make_mesh(fsdp=4, tensor=2)
    with_vectors = build_program(load_method(get_config(size)), mesh, seed=0)
    report = layout_report(with_vectors.shapes, with_vectors.layouts)
    assert "; 0 of 1 MiB or more are replicated" in report.splitlines()[0]


def test_the_report_marks_large_replicated_arrays():
    mesh = make_mesh(fsdp=8)
    shape = jax.ShapeDtypeStruct((1023, 1025), np.float32)
    named = nn.LogicallyPartitioned
    tree = {"odd": named(shape, names=("embed", "mlp")), "step": shape}
    report = layout_report(tree, shardings(mesh, tree))
    assert "2 of 1 MiB or more are replicated" in report.splitlines()[0]
    assert report.count("REPLICATED") == 2 and "odd  float32[1023, 1025]" in report


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"fsdp": -1, "tensor": 3}, "take 3 devices at once but there are 8.* as 2"),
        ({"data": 3}, "needs 3 devices but there are 8; set one axis to -1"),
        ({"fsdp": -1, "data": -1}, "positive integers and at most one -1"),
        ({"fsdp": 0}, "positive integers"),
        ({"model": 8}, "mesh axis 'model' is unknown"),
    ],
)
def test_a_wrong_mesh_raises(sizes, words):
    with pytest.raises(ValueError, match=words):
        make_mesh(**sizes)


def test_a_batch_that_does_not_divide_raises():
    mesh = make_mesh(fsdp=8)
    with pytest.raises(ValueError, match="batch 12 does not divide .* use 8 or 16"):
        host_shard(mesh, 12)
    assert host_shard(mesh, 16) == (0, 1)


def preset_layout(place):
    """The layout report of a preset on the mesh of its config."""
    config = load_config(place)
    sizes = [config.mesh[axis] for axis in AXES]
    mesh = AbstractMesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(sizes))
    shapes = jax.eval_shape(load_method(config, "tpu").init, jax.random.key(0))
    return layout_report(shapes, shardings(mesh, shapes))


@pytest.mark.parametrize("place", presets_with_machines("configs"))
def test_layouts_of_presets_equal_the_golden_files(place):
    name = place.split("/")[-1].translate(str.maketrans(".:@", "___"))
    path = ROOT / "tests" / "layouts" / f"{name}.txt"
    found = preset_layout(place)
    if os.environ.get("REVERIE_WRITE_LAYOUTS"):
        path.write_text(found)
    assert found == path.read_text()
    assert "; 0 of 1 MiB or more are replicated" in found.splitlines()[0]
