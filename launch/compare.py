"""Compare methods at equal training FLOPs: print the runs' commands, or what they found."""

import pathlib

from absl import flags

from launch import cli, config

TRAIN = flags.DEFINE_string(
    "train", None, "Folder for the runs: print the commands that train them there"
)
RUNS = flags.DEFINE_string(
    "runs", None, "Folder of the finished runs: write table and pictures there"
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


def main():
    if bool(TRAIN.value) == bool(RUNS.value):
        raise ValueError("one of --train=DIR and --runs=DIR is needed")
    if RUNS.value:
        from core.evals import compare

        return compare.compare(pathlib.Path(RUNS.value))
    for name, number in (("tflops", TFLOPS), ("seeds", SEEDS), ("points", POINTS)):
        if number.value <= 0:
            raise ValueError(f"--{name} is {number.value}; expected more than 0")
    commands = [
        command(place, seed) for seed in range(SEEDS.value) for place in CONFIGS.value
    ]
    print("\n".join(commands))


def command(place: str, seed: int) -> str:
    """The command that trains a config for --tflops; baselines are those of seed 0."""
    from core.config import load_method

    cost = load_method(config.load(place)).costs.flops
    if not cost:
        raise ValueError(
            f"--configs names {place}, whose method does not count its FLOPs"
        )
    points = POINTS.value
    each = round(1e12 * TFLOPS.value / cost / points)
    if each < 1:
        raise ValueError(
            f"--tflops is {TFLOPS.value:g}, but {points} steps of {place} take "
            f"{points * cost / 1e12:.3g}; use more"
        )
    flags = {"steps": each * points, "eval_steps.probe": each, "seed": seed}
    if seed:
        flags |= {"eval_steps.baselines": -1, "physical.twin": False}
    name = place.rpartition(":")[2]
    words = [f"--config.{key}={value}" for key, value in flags.items()]
    folder = pathlib.Path(TRAIN.value) / f"{name}_seed{seed}"
    return " ".join(
        ["python -m launch.train", f"--config={place}", *words, f"--workdir={folder}"]
    )


if __name__ == "__main__":
    cli.run(main)
