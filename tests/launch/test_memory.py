"""A command on CPU restarts itself with settings that keep freed memory."""

import os
import subprocess
import sys

import pytest

from launch import memory

SHOW = """
import os, sys
from launch import memory
memory.restart_to_keep_memory()
print(sys.argv[1:], *(os.environ.get(name) for name in memory.SETTINGS))
"""
PLAIN = {k: v for k, v in os.environ.items() if k not in memory.SETTINGS}
on_glibc = pytest.mark.skipif(
    not memory.should_restart({"JAX_PLATFORMS": "cpu"}),
    reason="only glibc has the settings",
)


@on_glibc
@pytest.mark.parametrize("own", [{}, {"MALLOC_ARENA_MAX": "2"}])
def test_settings_are_set_unless_the_user_has_set_one(own):
    environment = PLAIN | {"JAX_PLATFORMS": "cpu"} | own
    command = [sys.executable, "-c", SHOW, "--flag=a b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    values = [own.get(k) for k in memory.SETTINGS] if own else memory.SETTINGS.values()
    assert done.stdout.split("\n")[0] == " ".join(["['--flag=a b']", *map(str, values)])


@on_glibc
def test_a_process_with_an_accelerator_is_not_restarted(monkeypatch):
    for platforms in ("cuda", "tpu", "cuda,cpu"):
        assert not memory.should_restart({"JAX_PLATFORMS": platforms})
    monkeypatch.setattr(memory, "ACCELERATORS", ("/dev/null",))
    assert not memory.should_restart({})
    monkeypatch.setattr(memory, "ACCELERATORS", ())
    assert memory.should_restart({})
