"""The JEPA family at equal training FLOPs on the embedded world, for one CPU core.

python -m launch.compare --train=runs/compare prints the commands of all runs, with as many
steps as their FLOPs allow; python -m launch.compare --runs=runs/compare writes their table and
pictures.

v2, v2_1, levjepa and image are `tiny`, `tiny_dense`, `tiny_levjepa` and `tiny_image` of
configs/jepa.py. v2_1_context is v2_1 with one level: the loss at visible tokens without deep
supervision. Rates and momentum are constant after warm-up, so that each evaluation on the
way is that of a run of this length. All have the same validation clips and read-outs.
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
WARMUP_STEPS = 50
MOMENTUM = 0.99  # at .998 half of the target's first weights are left after 350 steps


def get_config(name="v2"):
    """The config of a row of the comparison; raises ValueError for unknown names."""
    if name not in PRESETS:
        raise ValueError(
            f"configs/compare.py has no preset {name!r}; use one of {', '.join(PRESETS)}"
        )
    config = jepa.get_config(PRESETS[name])
    if name == "v2_1_context":
        config.encoder.levels = config.predictor.levels = 1
    rate = config.optimizer.lr
    config.optimizer.lr = {
        "kind": "warmup_constant",
        "start": 0.0,
        "peak": rate.peak,
        "warmup_steps": WARMUP_STEPS,
    }
    if "momentum" in config.optimizer:
        config.optimizer.momentum = {"kind": "constant", "value": MOMENTUM}
    config.save_steps = 100_000  # after the last step alone
    config.data.workers = 1
    config.probe.update(
        {
            "train_clips": 1200,
            "held_clips": 200,
            "steps": 500,
            "batch": 32,
            "lr": 4e-3,
            "tubelet": (2, 16, 16),
            "twin_clips": TWIN_CLIPS[name],
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
