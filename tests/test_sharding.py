"""Any mesh trains the same run; layouts split what is large; any mesh reads a checkpoint."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from small import small

from configs.jepa import get_config
from core import checkpoint, sharding, train
from core.method import load

STEPS = 3
MESHES = [
    {"sequence": 2},
    {"data": 2, "fsdp": 2, "sequence": 2},
    {"data": 8},
    {"fsdp": 8},
    {"fsdp": 4, "tensor": 2},
    {"replica": 2, "fsdp": 2, "tensor": 2},
]


def config(mesh=None):
    """Weights have to move; but where a gradient is rounding noise, Adam with a small
    eps would make a whole step of it."""
    fields = {f"mesh__{axis}": size for axis, size in (mesh or {}).items()}
    optimizer = {"optimizer__lr__warmup_steps": 1, "optimizer__eps": 1e-4}
    return small(dtype="float32", **optimizer, **fields)


def planned(mesh):
    """(method, plan) on a mesh of as many devices as it asks for."""
    method = load(config(mesh))
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    placed = sharding.make_mesh(devices=devices, **mesh)
    return method, train.build(method, placed, seed=0)


def steps(mesh):
    """(state, losses and gradient norms) after some steps on a mesh, and its plan."""
    method, plan = planned(mesh)
    source = method.source("train", sharding.host_shard(plan.mesh, method.batch))
    state, found = plan.create(), []
    for _ in range(STEPS):
        batch = sharding.to_device(plan.mesh, source.next(), method.batch)
        with jax.set_mesh(plan.mesh):
            state, metrics = plan.step(state, batch)
        found.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    source.close()
    return state, found, plan


@pytest.fixture(scope="module")
def single():
    state, found, _ = steps({"data": 1})
    return jax.device_get(state), found


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_any_mesh_trains_the_same_run(mesh, single, capfd):
    state, found, plan = steps(mesh)
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
    np.testing.assert_allclose(found, single[1], rtol=1e-5)
    close = dict(atol=1e-5, rtol=0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close),
        jax.device_get(state),
        single[0],
    )
    assert plan.step._cache_size() == 1
    assert jax.tree.map(lambda x: x.sharding, state) == plan.layouts
    head = sharding.layout_report(plan.shapes, plan.layouts).splitlines()[0]
    whole = sum(x.nbytes for x in jax.tree.leaves(single[0])) / 2**20
    assert float(head.split()[0]) < 1.1 * whole / mesh.get("fsdp", 1) + 0.1


def test_a_checkpoint_is_read_on_any_mesh(tmp_path, single):
    _, wide = planned({"fsdp": 8})
    state = jax.device_put(single[0], wide.layouts)
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(STEPS, state, {"next_index": 8 * STEPS})
    _, narrow = planned({"fsdp": 2, "tensor": 2})
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        again, cursor = checkpoints.restore(narrow.shapes, narrow.layouts)
    assert cursor == {"next_index": 8 * STEPS}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), single[0])
    layouts = jax.tree.map(lambda x: x.sharding, again)
    assert layouts == narrow.layouts


@pytest.mark.parametrize("size", ["v1_h", "v2_l", "v2_g"])
def test_published_sizes_leave_nothing_large_whole(size):
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    with_vectors = train.build(load(get_config(size)), mesh, seed=0)
    report = sharding.layout_report(with_vectors.shapes, with_vectors.layouts)
    assert "; 0 of 1 MiB or more are replicated" in report.splitlines()[0]


def test_the_report_names_what_is_large_and_whole():
    mesh = sharding.make_mesh(fsdp=8)
    shape = jax.ShapeDtypeStruct((1023, 1025), np.float32)
    named = nn.LogicallyPartitioned
    tree = {"odd": named(shape, names=("embed", "mlp")), "step": shape}
    report = sharding.layout_report(tree, sharding.shardings(mesh, tree))
    assert "2 of 1 MiB or more are replicated" in report.splitlines()[0]
    assert report.count("REPLICATED") == 2 and "odd  float32[1023, 1025]" in report


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"data": 3}, "needs 3 devices but there are 8; set one axis to -1"),
        ({"fsdp": -1, "tensor": 3}, "but there are 8"),
        ({"fsdp": -1, "data": -1}, "positive integers and one -1"),
        ({"fsdp": 0}, "positive integers"),
        ({"model": 8}, "mesh axis 'model' is unknown"),
    ],
)
def test_a_wrong_mesh_is_told(sizes, words):
    with pytest.raises(ValueError, match=words):
        sharding.make_mesh(**sizes)


def test_a_batch_that_does_not_divide_is_told():
    mesh = sharding.make_mesh(fsdp=8)
    with pytest.raises(ValueError, match="batch 12 does not divide .* use 8 or 16"):
        sharding.host_shard(mesh, 12)
    assert sharding.host_shard(mesh, 16) == (0, 1)
