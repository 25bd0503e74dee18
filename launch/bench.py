"""Benchmark a config here: step time, data wait, FLOP/s, memory, compile time."""

import functools
import sys

from absl import flags

from launch import cli, config

CONFIG = cli.define_config()
STEPS = flags.DEFINE_integer(
    "steps", 20, "Steps to time, after the first, which compiles"
)
PEER = flags.DEFINE_enum(
    "peer",
    None,
    ["torch", "transformers", "stable_worldmodel"],
    "Compare with the same step in another framework, in turns: PyTorch tuned for speed, or "
    "transformers' modules; or with --what=plan the same plan, in PyTorch or that package",
)
PEER_PYTHON = flags.DEFINE_string(
    "peer_python",
    sys.executable,
    "Python that runs the peer, such as that of another venv",
)
WHAT = flags.DEFINE_list(
    "what",
    ["step"],
    "What to time: step, data, checkpoint, startup, extract, probe, or benchmarks of the "
    "method",
)
SWEEP = flags.DEFINE_string(
    "sweep",
    None,
    "Time all combinations of these settings: 'FIELD=VALUE,VALUE FIELD=...'",
)
SECONDS = flags.DEFINE_float(
    "seconds", 540.0, "Time limit of --sweep; no more are started after it"
)
JSON = flags.DEFINE_bool(
    "json", False, "Print one JSON object instead of lines of text"
)


def main():
    if CONFIG.value is None:
        raise ValueError("--config=FILE[:preset] is needed")
    if STEPS.value < 2:
        raise ValueError(f"--steps is {STEPS.value}; expected 2 or more")
    from core.parallel import distributed
    from core.perf import bench

    distributed.start()
    if SWEEP.value:
        return run_sweep()
    if PEER.value:
        if len(WHAT.value) != 1:
            raise ValueError(
                f"--peer compares one thing; --what is {','.join(WHAT.value)}"
            )
        found = bench.compare(
            CONFIG.value,
            PEER.value,
            what=WHAT.value[0],
            steps=STEPS.value,
            python=PEER_PYTHON.value,
        )
    else:
        found = bench.measure(CONFIG.value, WHAT.value, steps=STEPS.value)
    print(bench.as_json(found) if JSON.value else bench.as_lines(found))


def run_sweep():
    """Time the step with every combination of --sweep; print a line for each."""
    from core.perf import bench, sweep

    variants = config.variants(CONFIG.value, sweep.choices(SWEEP.value))
    show = bench.as_json if JSON.value else sweep.row
    measure = functools.partial(sweep.measure_on_one_batch, steps=STEPS.value)
    for found in sweep.sweep(variants, measure, seconds=SECONDS.value):
        print(show(found), flush=True)


if __name__ == "__main__":
    cli.run(main)
