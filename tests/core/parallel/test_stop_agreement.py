"""All processes stop at the same call, whenever and wherever a stop is requested."""

import random
import threading
import time

import pytest

from core.parallel import stop_agreement
from core.parallel.stop_agreement import StopAgreement


class Store:
    """The coordinator's store, for threads that stand for processes."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def key_value_try_get(self, key):
        return self.values[key]

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            found = self.changed.wait_for(
                lambda: key in self.values, timeout_in_ms / 1e3
            )
        if not found:
            raise TimeoutError(key)
        return self.values[key]


@pytest.mark.parametrize("seed", range(4))
def test_all_stop_at_the_same_call(seed, monkeypatch):
    """Steps are collectives: none is completed before all processes have begun it."""
    monkeypatch.setattr(stop_agreement, "POLL_S", 0.02)
    rng, count, store = random.Random(seed), 4, Store()
    barrier, stopped, heard = threading.Barrier(count), {}, []
    asking = set(rng.sample(range(count), 1 + seed % 2))

    def process(rank, pauses):
        step = 0
        with StopAgreement(store, rank, count, lambda: heard.append(rank)) as agreement:
            while not agreement.reached():
                if rank in asking and step == 5:
                    agreement.request()
                time.sleep(pauses[step % len(pauses)])
                barrier.wait(10)
                step += 1
        stopped[rank] = step

    pauses = [[rng.random() / 100 for _ in range(7)] for _ in range(count)]
    threads = [
        threading.Thread(target=process, args=(rank, pauses[rank]), daemon=True)
        for rank in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(stopped) == count and len(set(stopped.values())) == 1
    assert stopped[0] >= 6 and sorted(heard) == list(range(count))


def test_without_a_request_nothing_stops(monkeypatch):
    monkeypatch.setattr(stop_agreement, "POLL_S", 0.01)
    heard = []
    with StopAgreement(Store(), 0, 1, lambda: heard.append(0)) as agreement:
        time.sleep(0.1)
        assert not any(agreement.reached() for _ in range(100)) and not heard
