"""Measure a config on this machine: step time, data wait, FLOP/s, memory, compilation."""

import functools

from absl import flags

from launch import cli, config

CONFIG = cli.define_config()
STEPS = flags.DEFINE_integer("steps", 20, "Steps to time, after the one that compiles")
PEER = flags.DEFINE_enum(
    "peer", None, ["torch"], "Alternate with the same step in another framework"
)
WHAT = flags.DEFINE_list(
    "what",
    ["step"],
    "What to time: step, data, checkpoint, startup, or parts of the method",
)
SWEEP = flags.DEFINE_string(
    "sweep", None, "Combinations of settings to time: FIELD=VALUE,VALUE FIELD=..."
)
SECONDS = flags.DEFINE_float(
    "seconds", 540.0, "Time after which --sweep begins no more"
)
JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of lines")


def main():
    if CONFIG.value is None:
        raise ValueError("--config=FILE[:preset] is needed")
    if STEPS.value < 2:
        raise ValueError(f"--steps is {STEPS.value}; use 2 or more")
    from core.parallel import distributed
    from core.perf import bench

    distributed.start()
    if SWEEP.value:
        return swept()
    if PEER.value:
        found = bench.compare(CONFIG.value, steps=STEPS.value)
    else:
        found = bench.measure(CONFIG.value, WHAT.value, steps=STEPS.value)
    print(bench.as_json(found) if JSON.value else bench.as_lines(found))


def swept():
    """Time the config's step with every combination of --sweep, a line each."""
    from core.perf import bench, sweep

    variants = config.variants(CONFIG.value, sweep.choices(SWEEP.value))
    show = bench.as_json if JSON.value else sweep.row
    look = functools.partial(sweep.measure, steps=STEPS.value)
    for found in sweep.sweep(variants, look, seconds=SECONDS.value):
        print(show(found), flush=True)


if __name__ == "__main__":
    cli.run(main)
