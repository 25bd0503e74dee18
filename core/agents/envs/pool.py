"""Pool: environments that step in worker processes; broken ones are replaced."""

import contextlib
import functools
import multiprocessing
from collections import deque
from multiprocessing import util
from time import monotonic

import numpy as np

from core.agents.envs.make import make as make_env
from core.agents.envs.worker import Host, serve
from core.agents.spaces import RESERVED
from core.base.processes import ignore_parent_signals

STARTS = 3  # failures of an environment before its first step that end the run
FAILURES = 5  # of an environment within WINDOW steps that do not end the run
WINDOW = 1000
CLOSE_S = 2.0  # for all environments to close before they are killed


class Pool:
    """`count` environments of a task: `send` actions, later `receive` the steps.

    Args:
      task, size, repeat, action_bounds, leave_out: as in core/agents/envs/make.py.
      count: environments.
      seed: of all; environment i gets `worker_seed(seed, i, 0)`.
      timeout_s: an environment that does not answer for so long is replaced.
      processes: one for each environment; else all step in this one, during `send`.
      make: the function of core/agents/envs/make.py, or one with its arguments; picklable.

    Attributes: observations, actions: {name: Space}. An environment that raises, exits,
    hangs or returns a wrong step is replaced by a new one with another seed, which begins
    an episode. Raises ValueError if one cannot be started or fails too often.
    """

    def __init__(
        self,
        task: str,
        *,
        count: int,
        seed: int,
        size: int = 64,
        repeat: int = 1,
        action_bounds: str = "",
        leave_out: str = "",
        timeout_s: float = 60.0,
        processes: bool = True,
        make=make_env,
    ):
        self.task, self.count, self.seed = task, count, seed
        self.timeout_s, self.processes = timeout_s, processes
        self.make = functools.partial(
            make,
            task,
            size=size,
            repeat=repeat,
            action_bounds=action_bounds,
            leave_out=leave_out,
        )
        self.events = []  # failures that `take_events` has not returned yet
        self.rounds, self.sent = 0, False
        self.lives = [0] * count  # environments started so far, in place i
        self.tries = [0] * count  # starts since the last step
        self.failed = [deque(maxlen=FAILURES + 1) for _ in range(count)]  # rounds
        self.workers = []
        # At exit this runs before multiprocessing joins its processes.
        self.close = util.Finalize(self, _close, (self.workers,), exitpriority=10)
        self.workers += [self._start(i) for i in range(count)]
        for worker in self.workers:
            worker.send(None)
        self.observations, self.actions = self._gather(again=None)[0]

    def send(self, actions: dict) -> None:
        """Send actions by name and "reset": arrays [count, ...].

        Raises ValueError for actions that are not finite.
        """
        assert not self.sent, "receive the last steps first"
        for name, x in actions.items():
            assert len(x) == self.count, (name, len(x), self.count)
            if not np.isfinite(x).all():
                i = next(i for i in range(self.count) if not np.isfinite(x[i]).all())
                raise ValueError(
                    f"{name!r} of environment {i} of {self.task} is {x[i]}; "
                    "an action must be finite"
                )
        for i, worker in enumerate(self.workers):
            worker.send({name: x[i] for name, x in actions.items()})
        self.rounds, self.sent = self.rounds + 1, True

    def receive(self) -> dict:
        """The steps of all environments, {name: [count, ...]}; waits for them."""
        assert self.sent, "send actions first"
        nothing = {k: np.zeros(s.shape, s.dtype) for k, s in self.actions.items()}
        steps = self._gather(again=nothing | {"reset": True})
        self.sent, self.tries = False, [0] * self.count
        names = [*self.observations, *RESERVED]
        return {name: np.stack([step[name] for step in steps]) for name in names}

    def _gather(self, again) -> list:
        """The answer of each environment; a replacement is sent the request `again`."""
        answers: list = [None] * self.count
        due = [monotonic() + self.timeout_s] * self.count
        waiting = deque(range(self.count))
        while waiting:
            i = waiting.popleft()
            left = max(0.0, due[i] - monotonic())
            answers[i], reason = self.workers[i].receive(left)
            if reason:
                self._replace(i, reason)
                self.workers[i].send(again)
                due[i] = monotonic() + self.timeout_s
                waiting.append(i)
        return answers

    def _start(self, i):
        seed = worker_seed(self.seed, i, self.lives[i])
        make = functools.partial(self.make, seed=seed)
        self.lives[i] += 1
        self.tries[i] += 1
        return Remote(make, self.timeout_s) if self.processes else Host(make)

    def _replace(self, i, reason):
        """Start a new worker for environment i; ValueError if it fails too often."""
        name, failed = f"environment {i} of {self.task}", self.failed[i]
        self.events.append({"name": name, "reason": reason})
        failed.append(self.rounds)
        if self.tries[i] == STARTS:
            self._give_up(f"{name} could not be started in {STARTS} tries: {reason}")
        if len(failed) > FAILURES and self.rounds - failed[0] < WINDOW:
            self._give_up(
                f"{name} failed {len(failed)} times within {WINDOW} steps, "
                f"most recently: {reason}"
            )
        self.workers[i].kill()
        self.workers[i] = self._start(i)

    def _give_up(self, message):
        self.close()
        raise ValueError(message)

    def picture(self):
        """The scene of the first environment, if it runs in this process.

        uint8 [h, w, channels], or None if it cannot be drawn.
        """
        assert not self.processes, "environments in worker processes cannot be drawn"
        return self.workers[0].picture()

    def take_events(self) -> list[dict]:
        """The failures since the last call, {"name", "reason"} each."""
        events, self.events = self.events, []
        return events


def worker_seed(seed: int, i: int, life: int) -> int:
    """The 32-bit seed of environment i; each replacement (`life`) gets another one."""
    return int(np.random.SeedSequence([seed, i, life]).generate_state(1)[0])


class Remote:
    """The pool's end of a worker process, with the interface of Host."""

    def __init__(self, make, timeout_s):
        self.timeout_s = timeout_s
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far, make))
        with ignore_parent_signals():
            self.process.start()
        far.close()

    def send(self, request):
        with contextlib.suppress(OSError):  # `receive` notices a dead worker
            self.pipe.send(request)

    def receive(self, timeout_s):
        try:
            if not self.pipe.poll(timeout_s):
                return None, f"no answer within {self.timeout_s:g} s"
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(CLOSE_S)
            code = self.process.exitcode
            return None, f"its process ended with exit code {code}"

    def close(self):
        self.pipe.close()

    def kill(self):
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def _close(workers):
    """Let the workers close their environments, then kill those that are left."""
    for worker in workers:
        worker.close()
    until = monotonic() + CLOSE_S
    for worker in workers:
        if isinstance(worker, Remote):
            worker.process.join(max(0, until - monotonic()))
            worker.kill()
    workers.clear()
