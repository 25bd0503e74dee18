"""Plans in another program: `python -m jepa.perf.plan_programs KIND FOLDER THREADS`.

It makes one plan for every line on its standard input. KIND is the end of the name of a module
`plan_peer_KIND`. Needs PyTorch and numpy, and nothing of JAX: it may run in an environment of
its own.
"""

import contextlib
import importlib
import sys

from jepa.perf.serving import serve


def start(kind, folder, threads):
    """Make a plan per input line, timed by jepa.perf.serving.

    "costs" are those of plans that both programs are given, or empty.
    """
    import torch

    torch.set_num_threads(int(threads))
    module = importlib.import_module(f"jepa.perf.plan_peer_{kind}")
    program = module.Program(folder)
    costs = program.check().tolist()

    def plan():
        with contextlib.redirect_stdout(sys.stderr):  # a solver may print
            program.plan()
        return {"costs": costs}

    serve(module.VERSIONS, plan)


if __name__ == "__main__":
    start(*sys.argv[1:])
