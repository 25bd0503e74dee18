"""Plans in another program: `python -m jepa.perf.plan_programs KIND FOLDER THREADS`.

It makes one plan for every line on its standard input. KIND is the end of the name of a module
`plan_peer_KIND`. Needs PyTorch and numpy, and nothing of JAX: it may run in an environment of
its own.
"""

import contextlib
import importlib
import json
import resource
import sys
import time


def serve(kind, folder, threads):
    """Print lines of JSON: first the versions, then for each plan seconds, CPU and memory.

    "costs" are those of plans that both programs are given, or empty.
    """
    import torch

    torch.set_num_threads(int(threads))
    module = importlib.import_module(f"jepa.perf.plan_peer_{kind}")
    program = module.Program(folder)
    costs = program.check().tolist()
    print(json.dumps({"versions": module.VERSIONS}), flush=True)
    for _ in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):  # a solver may print
            program.plan()
        answer = {"seconds": time.perf_counter() - start, "costs": costs}
        answer["cpu_seconds"] = time.process_time() - used
        answer["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
