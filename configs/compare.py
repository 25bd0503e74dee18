"""The JEPA family at equal training FLOPs, on the embedded world and on a game; one CPU core.

python -m launch.compare --train=runs/compare prints the commands of all runs, with as many
steps as their FLOPs allow; python -m launch.compare --runs=runs/compare writes their table and
pictures.

v2, v2_1, levjepa and image are `tiny`, `tiny_dense`, `tiny_levjepa` and `tiny_image` of
configs/jepa.py. v2_1_context is v2_1 with one level: the loss at visible tokens without deep
supervision. Rates and momentum are constant after warm-up, so that each evaluation on the
way is that of a run of this length. All have the same validation clips and read-outs.

pong_v2, pong_v2_1 and so on are the same on the clips and the read-outs of `atari`, and
pong_atari is `atari`, whose objective has terms against collapse.
"""

from configs import jepa

PRESETS = {
    "v2": "tiny",
    "v2_1": "tiny_dense",
    "v2_1_context": "tiny_dense",
    "levjepa": "tiny_levjepa",
    "image": "tiny_image",
}
# Labelled clips in a step of the supervised twin, which then costs as many FLOPs as one of
# the method.
TWIN_CLIPS = {"v2": 25, "v2_1": 30, "v2_1_context": 28, "levjepa": 7, "image": 4}
GAME = "pong_"  # before the name of a row
WARMUP_STEPS = 50
MOMENTUM = 0.99  # at .998 half of the target's first weights are left after 350 steps


def get_config(name="v2"):
    """The config of a row of the comparison; raises ValueError for unknown names."""
    row = name.removeprefix(GAME)
    known = [*PRESETS, *(GAME + row for row in (*PRESETS, "atari"))]
    if name not in known:
        raise ValueError(
            f"configs/compare.py has no preset {name!r}; use one of {', '.join(known)}"
        )
    config = jepa.get_config(PRESETS.get(row, row))
    if row == "v2_1_context":
        config.encoder.levels = config.predictor.levels = 1
    rate = config.optimizer.lr
    config.optimizer.lr = {
        "kind": "warmup_constant",
        "start": 0.0,
        "peak": rate.peak,
        "warmup_steps": WARMUP_STEPS,
    }
    if "momentum" in config.optimizer and row != "atari":
        config.optimizer.momentum = {"kind": "constant", "value": MOMENTUM}
    config.save_steps = 100_000  # after the last step alone
    config.data.workers = 1
    return read_objects(config) if name != row else read_bodies(config, row)


def read_bodies(config, row: str):
    """The config with the read-outs of the embedded world."""
    config.probe.update(
        {
            "train_clips": 1200,
            "held_clips": 200,
            "steps": 500,
            "batch": 32,
            "lr": 4e-3,
            "tubelet": (2, 16, 16),
            "twin_clips": TWIN_CLIPS[row],
        }
    )
    config.physical.update(
        {
            "train_clips": 300,
            "held_clips": 150,
            "steps": 100,
            "cell": (1, 8, 8),
            "twin": True,
        }
    )
    config.eval_steps.update(
        {"health": 0, "pictures": -1, "probe": 0, "baselines": 0, "dense": 0}
    )
    return config


def read_objects(config):
    """The config with clips and read-outs of `atari`, from 300 labelled clips."""
    game = jepa.get_config("atari")
    images = "frames:" if config.method == "jepa.image" else ""
    names = ("fps", "scale", "aspect", "flip")
    config.data.update({name: game.data[name] for name in names})
    config.data.source = images + game.data.source
    config.objects = game.objects
    config.objects.update({"labels": (300,), "twin": {"steps": 800}})
    config.eval_steps.update(dict.fromkeys(config.eval_steps, -1))
    config.eval_steps.update({"health": 0, "objects": 0})
    return config
