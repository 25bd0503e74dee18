"""Accelerators, counts and slices give the machines that clouds document."""

import pytest

from core.submit.hosts import read


# Machines and chips from the tables of Cloud TPU and of GPU machine types.
@pytest.mark.parametrize(
    ("text", "count", "slices", "nodes", "chips", "devices"),
    [
        ("v5e:2x2", None, 1, 1, 4, 4),
        ("v5e:2x4", 8, 1, 1, 8, 8),
        ("v6e:4x4", None, 1, 4, 4, 16),
        ("2xv5e:16x16", 512, 1, 128, 4, 512),
        ("v5p:4x4x4", None, 3, 48, 4, 192),
        ("v4", 32, 2, 8, 4, 32),
        ("v5e", 64, 1, 16, 4, 64),
        ("h100:4x8", None, 1, 4, 8, 32),
        ("h200", 16, 1, 2, 8, 16),
        ("h200", 4, 1, 1, 4, 4),
        ("cpu:3x2", 6, 1, 3, 2, 6),
    ],
)
def test_machines(text, count, slices, nodes, chips, devices):
    hosts = read(text, count, slices)
    assert (hosts.nodes, hosts.chips, hosts.devices) == (nodes, chips, devices)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a100:1x8",), "known kinds are v4, v5e, v5p, v6e, h100, h200, cpu"),
        (("v5:4x4",), "did you mean v5"),
        (
            ("v5e:4x4", 32),
            "--count is 32, but --accelerator=v5e:4x4 with 1 slice(s) has 16",
        ),
        (("v5e:3x4",), "'v5e:3x4' does not exist; the nearest is v5e:"),
        (("v5e", 24), "no slice of v5e is known to have 24 chips"),
        (("v5e",), "--accelerator=v5e has no size; write it as v5e:4x4"),
        (("v5p", 30, 4), "--count is 30; expected a multiple of 4 slice(s)"),
        (("2xv5e:4x4", None, 3), "has 2 slices, but --slices is 3"),
        (("h100:4x16",), "up to 8 GPUs a host"),
        (("h100", 12), "expected up to 8 GPUs, or a multiple of 8"),
        (("h100:2x8", None, 2), "--slices is for TPUs"),
        (("cpu:4",), "write cpu:HOSTSxDEVICES"),
    ],
)
def test_what_does_not_exist(arguments, words):
    with pytest.raises(ValueError) as caught:
        read(*arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)
