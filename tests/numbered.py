"""Test records that hold their own number, and helpers to take samples."""

import multiprocessing
import os
import signal
import threading

import numpy as np

from core.data.records import BadSample


class Numbers:
    """Records that hold their own number.

    bad: raise `error`; fatal: kill their worker; stuck: never end, until `Numbers.release`
    is set in this process.
    """

    release = threading.Event()

    def __init__(self, n, bad=(), error=BadSample, fatal=(), stuck=()):
        self.n, self.bad, self.error, self.fatal = n, set(bad), error, set(fatal)
        self.stuck = set(stuck)

    def __str__(self):
        return "the numbers"

    def __len__(self):
        return self.n

    def name(self, index):
        return f"number {index}"

    def load(self, index, rng):
        rng.random(index % 3)  # unequal draws must not affect other records
        if index in self.bad:
            raise self.error("rotten")
        if index in self.fatal and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.stuck:
            Numbers.release.wait()
        return {"record": np.array([index]), "noise": rng.random(3)}


class Several(Numbers):
    """Numbers with `crops` samples per record. Here, so that workers import little."""

    def __init__(self, n, crops, **options):
        super().__init__(n, **options)
        self.crops = crops

    def load(self, index, rng):
        item, n = super().load(index, rng), self.crops
        first = np.full(n, item["noise"][0])
        record = np.full((n, 1), index)
        return {"record": record, "noise": rng.random((n, 3)), "first": first}


def add_mask(item, *, position, rng):
    """A transform that adds the position and a random mask."""
    return {**item, "position": np.int64(position), "mask": rng.random(2)}


def take(source, batches):
    """The next `batches` batches of a source, concatenated: {name: [samples, ...]}."""
    parts = [source.next() for _ in range(batches)]
    return {k: np.concatenate([np.array(p[k]) for p in parts]) for k in parts[0]}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        np.testing.assert_array_equal(a[k], b[k], err_msg=k)
