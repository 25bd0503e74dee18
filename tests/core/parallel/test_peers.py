"""Rounds: every process hears the texts of all, and keys do not pile up."""

import threading

from core.parallel import peers


class Store:
    """A coordinator's store, which a thread per process uses."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()
        self.most = 0

    def key_value_set(self, key, value):
        with self.changed:
            assert key not in self.values
            self.values[key] = value
            self.most = max(self.most, len(self.values))
            self.changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, 30)
            return self.values[key]

    def key_value_delete(self, key):
        with self.changed:
            del self.values[key]


def test_every_process_hears_all_in_every_round(monkeypatch):
    store, me, heard = Store(), threading.local(), {}
    monkeypatch.setattr(peers, "store", lambda: store)
    monkeypatch.setattr(peers.jax, "process_count", lambda: 3)
    monkeypatch.setattr(peers.jax, "process_index", lambda: me.index)

    def run(index):
        me.index, rounds = index, peers.Rounds("test")
        texts = [f"{index} fails in {n}" if n % 3 == index else "" for n in range(20)]
        heard[index] = [rounds.hear_all(text) for text in texts]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = [
        [f"{k} fails in {n}" if n % 3 == k else "" for k in range(3)] for n in range(20)
    ]
    assert [heard[k] for k in range(3)] == [wanted] * 3
    assert store.most <= 3 * 3


def test_one_process_hears_itself():
    assert peers.Rounds("alone").hear_all("a") == ["a"]
