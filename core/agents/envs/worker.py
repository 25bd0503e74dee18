"""An environment behind requests and answers, in this process or in a worker process.

A request is a dictionary of actions, answered by a checked step, or None, answered by the
spaces. An answer is (value, ""), or (None, reason) after a failure.
"""

import contextlib
import os

from absl import logging

from core.agents.envs.checks import check
from core.base.processes import end_with_parent
from core.data.records import explain


class Host:
    """Makes its environment for the first request; `receive` returns the last answer."""

    def __init__(self, make):
        self.make, self.env, self.answer = make, None, None
        self.can_draw = True

    def send(self, request):
        try:
            if self.env is None:
                self.env = self.make()
            if request is None:
                self.answer = (self.env.observations, self.env.actions), ""
            else:
                self.answer = check(self.env.step(request), self.env), ""
        except Exception as error:  # noqa: BLE001, the pool counts it
            self.answer = None, explain(error)

    def receive(self, timeout_s=0.0):
        return self.answer

    def picture(self):
        """The scene for people, uint8 [h, w, channels]; None if it cannot be drawn."""
        if self.env is None or not self.can_draw:
            return None
        try:
            return self.env.picture()
        except Exception as error:  # noqa: BLE001, no reason to end a run
            self.can_draw = False
            logging.warning("An environment cannot be drawn: %s", explain(error))
            return None

    def close(self):
        if self.env is not None:
            # A broken environment may fail again here, without consequence.
            with contextlib.suppress(Exception):
                self.env.close()

    kill = close


def serve(pipe, make):
    """Main function of a worker process; ends when the pool closes its end of the pipe."""
    end_with_parent()  # a step that hangs would not notice the closed pipe
    host = Host(make)
    with contextlib.suppress(EOFError, OSError):
        while True:
            host.send(pipe.recv())
            pipe.send(host.receive())
    host.close()
    os._exit(0)  # skips the teardown of imported modules, half a second
