"""Compare methods at equal training FLOPs: print the runs' commands, or what they found."""

import functools
import pathlib

from absl import flags

from launch import cli, config

TRAIN = flags.DEFINE_string(
    "train", None, "Folder for the runs: print the commands that train them there"
)
RUNS = flags.DEFINE_string(
    "runs", None, "Folder of the finished runs: write table and pictures there"
)
TIMES = flags.DEFINE_string(
    "times",
    None,
    "Folder of runs: time a step of each config here, for the table at equal time: seconds "
    "of all processes, as on one core",
)
CONFIGS = flags.DEFINE_list(
    "configs",
    [
        f"configs/compare.py:{x}"
        for x in ("v2", "v2_1", "v2_1_context", "levjepa", "image")
    ],
    "Configs to compare",
)
TFLOPS = flags.DEFINE_float("tflops", 2.5, "Training of a run, in 10^12 operations")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each config")
POINTS = flags.DEFINE_integer("points", 2, "Evaluations of a run, evenly spaced")

STEPS, ROUNDS = 20, 3  # of the measurement of times


def main():
    if sum(map(bool, (TRAIN.value, RUNS.value, TIMES.value))) != 1:
        raise ValueError("one of --train=DIR, --times=DIR and --runs=DIR is needed")
    if TIMES.value:
        return time_steps(pathlib.Path(TIMES.value))
    if RUNS.value:
        from core.evals import compare

        return compare.compare(pathlib.Path(RUNS.value))
    numbers = {"tflops": TFLOPS.value, "seeds": SEEDS.value, "points": POINTS.value}
    if wrong := [name for name, value in numbers.items() if value <= 0]:
        raise ValueError(
            f"--{wrong[0]} is {numbers[wrong[0]]}; expected a number above 0"
        )
    more = {"tflops": TFLOPS.value, "points": POINTS.value, "runs": TRAIN.value}
    for seed in range(SEEDS.value):
        for place in CONFIGS.value:
            print(command(place, seed, **more))


def time_steps(folder: pathlib.Path) -> None:
    """Write the seconds of a step of all configs, in turns."""
    from core.evals import compare
    from core.perf import bench

    if not folder.is_dir():
        raise ValueError(f"--times={folder} is not a folder")

    def measure(settings):
        found = bench.measure(settings, ("step", "data"), steps=STEPS)
        return found["step_cpu_seconds_median"] + found["data_core_seconds_per_step"]

    steps = {
        place.rpartition(":")[2]: functools.partial(measure, config.load(place))
        for place in CONFIGS.value
    }
    compare.write_times(folder, steps, rounds=ROUNDS)


def command(place: str, seed: int, *, tflops: float, points: int, runs: str) -> str:
    """The command that trains a config in a folder of its own below `runs`.

    As many steps as `tflops` 10^12 operations allow, evaluated `points` times. Baselines
    are those of seed 0. Raises ValueError for a method that does not count its FLOPs, and
    for too few of them.
    """
    from core.config import load_method

    settings = config.load(place)
    cost = load_method(settings).costs.flops
    if not cost:
        raise ValueError(
            f"--configs names {place}, whose method does not count its FLOPs"
        )
    each = round(1e12 * tflops / cost / points)
    if each < 1:
        raise ValueError(
            f"--tflops is {tflops:g}, but --points steps of {place} take "
            f"{points * cost / 1e12:.3g}; use more"
        )
    read = "objects" if "objects" in settings else "probe"
    fields = {"steps": each * points, f"eval_steps.{read}": each, "seed": seed}
    if seed and read == "objects":
        fields |= {"objects.encoders": "trained,untrained"}
    elif seed:
        fields |= {"eval_steps.baselines": -1, "physical.twin": False}
    words = [f"--config.{key}={value}" for key, value in fields.items()]
    folder = pathlib.Path(runs) / f"{place.rpartition(':')[2]}_seed{seed}"
    return " ".join(
        ["python -m launch.train", f"--config={place}", *words, f"--workdir={folder}"]
    )


if __name__ == "__main__":
    cli.run(main)
