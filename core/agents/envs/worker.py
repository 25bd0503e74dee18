"""An environment that answers requests, in this process or in one of its own.

A request is an action, answered by a checked step, or None, answered by the spaces. An
answer is (value, ""), or (None, the reason why there is none).
"""

import contextlib
import os

from absl import logging

from core.agents.envs.checks import check
from core.base.processes import end_with_parent
from core.data.records import explain


class Host:
    """Makes its environment for the first request; an answer awaits `receive`."""

    def __init__(self, make):
        self.make, self.env, self.answer = make, None, None
        self.dark = False  # cannot be drawn

    def send(self, request):
        try:
            if self.env is None:
                self.env = self.make()
            if request is None:
                self.answer = (self.env.observations, self.env.actions), ""
            else:
                self.answer = check(self.env.step(request), self.env), ""
        except Exception as error:  # noqa: BLE001, told and counted
            self.answer = None, explain(error)

    def receive(self, timeout_s=0.0):
        return self.answer

    def picture(self):
        """What a person sees of the environment, where it can be drawn."""
        if self.dark:
            return None
        try:
            return self.env.picture()
        except Exception as error:  # noqa: BLE001, no reason to end a run
            self.dark = True
            logging.warning("An environment cannot be drawn: %s", explain(error))

    def close(self):
        if self.env is not None:
            # What has failed once may do so again, and nobody needs it any more.
            with contextlib.suppress(Exception):
                self.env.close()

    kill = close


def serve(pipe, make):
    """The life of a worker process; ends when the pool lets go of its end of the pipe."""
    end_with_parent()  # a step that hangs would not see its pipe close
    host = Host(make)
    with contextlib.suppress(EOFError, OSError):
        while True:
            host.send(pipe.recv())
            pipe.send(host.receive())
    host.close()
    os._exit(0)  # without taking apart all that was imported: half a second
