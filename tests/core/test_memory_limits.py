"""Memory limits of machines and containers, and arrays larger than memory."""

import psutil

from core.base.memory import lazy_zeros, memory_limit


def test_the_smallest_limit_of_the_control_groups_counts(tmp_path):
    own, total = tmp_path / "own", psutil.virtual_memory().total

    def limit(text):
        own.write_text(text)
        return memory_limit(tmp_path, own)

    assert limit("") == limit("0::/none\n") == total
    (tmp_path / "job/task").mkdir(parents=True)
    (tmp_path / "job/task/memory.max").write_text("max\n")
    assert limit("0::/job/task\n") == total
    (tmp_path / "job/memory.max").write_text("7000\n")
    assert limit("0::/job/task\n") == 7000 and limit("0::/other\n") == total
    (tmp_path / "memory.max").write_text("6000\n")
    assert limit("0::/job/task\n") == 6000
    (tmp_path / "memory/docker").mkdir(parents=True)
    (tmp_path / "memory/docker/memory.limit_in_bytes").write_text("5000\n")
    assert limit("5:cpu:/x\n4:memory:/docker\n") == 5000


def test_an_array_may_be_larger_than_memory():
    rows = psutil.virtual_memory().total // 1000
    x = lazy_zeros((rows, 2, 1000), "uint8")
    x[rows // 2, 1, 5] = 7
    assert x.nbytes > psutil.virtual_memory().total and x[rows // 2].sum() == 7
    assert lazy_zeros((3, 0), "float16").shape == (3, 0)
