"""Work of another program, timed: one answer for every line on its standard input.

Needs nothing of JAX.
"""

import json
import resource
import sys
import time
from collections.abc import Callable


def serve(versions: str, work: Callable[[], dict]) -> None:
    """Print lines of JSON: first the versions, then what each call of `work` returns.

    Beside it stand "seconds", "cpu_seconds" and "peak_kib", the memory of the process.
    """
    print(json.dumps({"versions": versions}), flush=True)
    for _ in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        found = work()
        answer = {"seconds": time.perf_counter() - start, **found}
        answer["cpu_seconds"] = time.process_time() - used
        answer["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(answer), flush=True)
