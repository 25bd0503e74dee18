"""Forecasts: steps compiled for machines that are not available, and their arithmetic."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small import small

from core import hardware
from core.parallel.mesh import make_mesh
from core.perf import communication, forecast, tables

pytest.importorskip("libtpu")


def config(**fields):
    fields = {"dtype": "bfloat16", "batch": 16, "encoder__size": "mini", **fields}
    config = small(**fields)
    del config.masks.patterns["steps"]
    return config


@pytest.fixture(scope="module")
def found():
    mesh = {"mesh__data": 2, "mesh__fsdp": 4}
    return forecast.forecast(config(**mesh), hardware.parse("v5e:2x4"))


def test_a_step_is_compiled_for_tpus(found):
    assert found["fits"] and found["memory_share"] < 0.1 and not found["replicated"]
    assert found["devices"] == 8 and found["mesh"] == {"data": 2, "fsdp": 4}
    kinds = {(x["kind"], *x["axes"]) for x in found["collectives"]}
    assert ("all-gather", "fsdp") in kinds and ("all-reduce", "data") in kinds
    moments = 2 * found["state_bytes"]["params"] + 4
    assert found["state_bytes"]["opt"] == moments
    assert found["dominated_by"] in found["seconds"]
    assert found["step_seconds_bound"] == max(found["seconds"].values())
    assert found["step_seconds_serial"] == pytest.approx(sum(found["seconds"].values()))
    ideal = found["flops_useful"] / 8 / 197e12
    assert found["mfu_bound"] == pytest.approx(ideal / found["step_seconds_bound"])
    assert found["flops_executed"] > found["flops_useful"]


def test_a_forecast_is_shown_as_lines_and_tables(found):
    text = tables.lines(found)
    assert "v5e:2x4, 8 devices" in text and "all-gather along fsdp" in text
    page = tables.markdown({"jepa tiny": found})
    assert "| jepa tiny | data 2 fsdp 4 | 2 in 1 |" in page


def test_a_step_that_does_not_fit_is_reported(monkeypatch):
    def large(method, plan):
        layout = NamedSharding(plan.mesh, PartitionSpec())
        x = jax.ShapeDtypeStruct((5 * 2**10, 2**20), jnp.float32, sharding=layout)
        return jax.jit(lambda x: x + 1).lower(x)

    monkeypatch.setattr(forecast, "lower_step", large)
    found = forecast.forecast(config(), hardware.parse("v5e:1x1"))
    # 20 GiB of input and 20 of output; the compiler raises.
    assert not found["fits"] and found["memory_share"] == pytest.approx(40 / 16, 0.02)
    assert found["cure"].startswith("25.6 GiB too much; raise accumulate (it is 1)")
    assert "does not fit" in tables.lines(found)


def test_weak_scaling_follows_ring_arithmetic():
    machine = hardware.parse("v5e:16x16")
    found = {
        "mesh": {"data": 16, "fsdp": 16},
        "seconds": {"compute": 1.0, "memory": 0.5},
        "fixed_link_seconds": 0.25,
        "data_rate": 100e9,
    }
    rows = communication.weak_scaling(found, machine, 1e9, most=1024)
    assert [row["devices"] for row in rows] == [16, 32, 64, 128, 256, 512, 1024]
    assert [row["slices"] for row in rows] == [1, 1, 1, 1, 1, 2, 4]
    assert rows[0]["step_seconds_serial"] == 1.75
    assert rows[4]["step_seconds_serial"] == pytest.approx(1.75 + 2 * 15 / 16 / 100)
    across = 2 * 3 / 4 * 1e9 / 3.125e9
    last = 1.75 + 2 * 15 / 16 / 100 + across
    assert rows[-1]["step_seconds_serial"] == pytest.approx(last)
    assert rows[-1]["efficiency_serial"] == pytest.approx(1.75 / last)
    assert rows[-1]["efficiency_bound"] == 1.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5x:4x4", "no accelerator 'v5x'; the nearest is 'v5"),
        ("v5e:3x3", "does not exist; the nearest is v5e:2x4"),
        ("v5p:8x4x4", "does not exist; the nearest is v5p:4x4x8"),
        ("v5e", "does not exist; the nearest is v5e:1x1"),
        ("h100:9", "write h100:HOSTSxGPUS with up to 8 GPUs a host"),
        ("h200:1x16", "write h200:HOSTSxGPUS"),
    ],
)
def test_unknown_machines_are_errors(name, words):
    with pytest.raises(ValueError, match=words):
        hardware.parse(name)


def test_slices_are_counted_by_replica():
    machine = hardware.parse("v5e:2x2", 2)
    devices = hardware.devices_of(machine)
    assert machine.devices == len(devices) == 8 and machine == hardware.parse(
        "2xv5e:2x2"
    )
    with pytest.raises(
        ValueError, match="replica is 1 but there are 2 TPU slices; use 2"
    ):
        make_mesh(devices=devices, fsdp=-1)
    mesh = make_mesh(devices=devices, replica=2, fsdp=-1)
    slices = [{d.slice_index for d in row.flat} for row in mesh.devices]
    assert slices == [{0}, {1}]
    assert hardware.link_rate(machine, mesh, "replica") == 3.125e9
    assert math.isclose(hardware.link_rate(machine, mesh, "fsdp"), 100e9)
