"""The benchmark accounts for the time of the steps it runs."""

import json

import numpy as np
import pytest
from small import small

from core import bench


def test_a_small_config_is_measured():
    found = json.loads(bench.as_json(bench.measure(small(mesh__data=8), steps=3)))
    assert found["steps"] == 3 and found["programs_compiled"] == 1
    assert 0 < found["step_seconds_min"] <= found["step_seconds_median"]
    assert 0 <= found["data_wait_share"] <= 1
    assert found["flops_per_second"] == pytest.approx(
        found["flops_per_step"] / found["step_seconds_median"]
    )
    assert found["host_peak_bytes"] > 50e6


def test_the_first_step_counts_as_compilation():
    class Method:
        batch, unit, flops = 4, "clips", 6.0

    class Plan:
        class step:
            _cache_size = staticmethod(lambda: 1)

    waits, times = np.array([9.0, 1, 1]), np.array([30.0, 2, 4])
    found = bench.account(Method, Plan, waits, times)
    assert found["compile_seconds"] == 27 and found["step_seconds_median"] == 3
    assert found["data_wait_share"] == 2 / 8 and found["clips_per_second"] == 1
    assert found["flops_per_second"] == 2
