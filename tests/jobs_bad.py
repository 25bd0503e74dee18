"""Jobs for core/prepare/parallel_work.py, some of which crash or hang."""

import os
import signal
import time

from core.prepare import parallel_work


def job(folder, kind):
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hang":
        time.sleep(60)
    parallel_work.empty_folder(folder)
    parallel_work.write_facts(folder, {"kind": kind})
