r"""DINO-WM (arXiv 2411.04983) and JEPA-WM (2512.24497): worlds of patches of a frozen encoder.

two_rooms, pushing: two CPU cores, on embedded tasks, with an encoder that is trained first:
python -m launch.train --config=configs/jepa.py:rooms --workdir=runs/rooms
python -m launch.train --config=configs/dino_wm.py:two_rooms --workdir=runs/dino_wm \
    --config.init_from=runs/rooms

two_rooms_adaln: the same with the predictor of JEPA-WM and a rollout in training.

pusht, jepa_wm: the published predictors and schedules. The published encoder is DINOv2, which
is not read here: the encoder is one of configs/jepa.py of its width and number of patches.
"""

from ml_collections import ConfigDict

from configs import run


def get_config(preset="two_rooms"):
    """The config of a preset by name; ValueError for an unknown one."""
    makers = {
        "two_rooms": two_rooms,
        "two_rooms_adaln": two_rooms_adaln,
        "pushing": pushing,
        "pusht": pusht,
        "jepa_wm": jepa_wm,
    }
    if preset not in makers:
        raise ValueError(
            f"configs/dino_wm.py has no preset {preset!r}; use one of {', '.join(makers)}"
        )
    return ConfigDict(makers[preset]())


def pusht():
    """DINO-WM: 10 epochs of 1.8M clips, a tenth of the published number."""
    return run.fields() | {
        "method": "jepa.dino_wm",
        "init_parts": "encoder",  # of encoder,dynamics,opt
        "random_encoder": False,  # whether an empty init_from is meant
        "steps": 562_500,
        "batch": 32,
        "clip": {
            "history": 3,  # frames that a prediction sees; a clip has one more
            "skip": 5,  # environment steps between frames
        },
        "data": {
            "source": "",  # a name of trajectories in core/data/source_names.py
            "size": 224,
            "images": (),  # names of the pictures of each view; none: the first by name
            "states": (
                "state",
            ),  # observations that make proprioception; none: without
            "action": "concatenated",  # or summed, pose: of the recorded actions
        }
        | run.trajectories(),
        # As wide as DINOv2's ViT-S/14 on 196 pixels, and with as many patches.
        "encoder": {
            "size": "S",
            "patch": (2, 16, 16),
            "positions": "tiled",
            "rescale": True,
            "remat": "none",
            "attention": "auto",
        },
        "conditioning": "feature",  # actions as channels of every patch; or adaln
        "embed": {"action": 10, "proprio": 10},  # widths
        "predictor": {
            "depth": 6,
            "heads": 16,
            "head_dim": 64,
            "hidden": 2048,
            "dropout": 0.1,
        },
        "objective": {
            "rollout": 1,  # steps; 1: teacher forcing alone
            "proprio": 10 / 384,  # weight; at this one all channels count alike
        },
        "optimizer": {
            "lr": {"kind": "constant", "value": 5e-4},
            "decay": {"kind": "constant", "value": 0.01},  # PyTorch's default
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "clip_norm": 0.0,
        },
        # Validation clips, frames ahead, and actions tried per clip.
        "rollout": {"clips": 64, "horizon": 6, "tried": 200},
        # A linear decoder for looking: clips that it is fitted to, and clips that are shown.
        "pictures": {"clips": 64, "horizon": 6, "shown": 4},
        # As in configs/lewm.py, but that predictions see up to clip.history frames, and that
        # window is how many of them are observed before a plan.
        "plan": {
            "world": "",
            "window": 1,
            "last": 1,
            "alpha": 1.0,  # weight of proprioception in the cost
            "tasks": {"near": {"offset": 25, "budget": 50}},
            "planners": {"cem": {"candidates": 300, "best": 30, "rounds": 30}},
            "exported": "cem",
            "horizon": 5,
            "execute": 5,
            "problems": 50,
            "seeds": 3,
            "at_once": 1,
            "bounded": True,
            "std": 1.0,
        },
        # Steps between evaluations; 0: only after the last step, -1: never.
        "eval_steps": {"rollout": 5000, "pictures": -1, "plan": -1},
    }


def jepa_wm():
    """JEPA-WM: 50 epochs, AdaLN, two steps. Heads have 24 channels, where the published 25."""
    config = pusht()
    config |= {
        "steps": 351_600,
        "batch": 256,
        "conditioning": "adaln",
        "embed": {"action": 400, "proprio": 16},
        "predictor": {
            "width": 384,
            "depth": 6,
            "heads": 16,
            "head_dim": 24,
            "hidden": 1600,
            "rope_grid": 16,
        },
        "objective": {"rollout": 2, "proprio": 1.0},
    }
    config["data"] |= {"size": 256}
    config["optimizer"] |= {
        "decay": {"kind": "cosine", "start": 1e-7, "final": 1e-6},
        "clip_norm": 1.0,
    }
    config["plan"] |= {
        "alpha": 0.1,
        "planners": {"cem": {"candidates": 300, "best": 10, "rounds": 30}},
        "horizon": 6,
        "execute": 6,
    }
    return config


def two_rooms():
    """A small predictor on the features of configs/jepa.py:rooms; no proprioception."""
    config = pusht()
    config |= {
        "steps": 2000,
        "batch": 32,
        "save_steps": 500,
        "predictor": {
            "depth": 4,
            "heads": 4,
            "head_dim": 32,
            "hidden": 512,
            "dropout": 0.0,
        },
        "objective": {"rollout": 1, "proprio": 0.0},
        "rollout": {"clips": 128, "horizon": 6, "tried": 400},
        "eval_steps": {"rollout": 500, "pictures": -1, "plan": -1},
    }
    config["data"] |= {"source": "two_rooms", "size": 64, "states": (), "workers": 0}
    config["encoder"] |= {"size": "tiny"}
    config["optimizer"]["lr"] = {
        "kind": "warmup_constant_linear",
        "start": 0.0,
        "peak": 1e-3,
        "final": 0.0,
        "warmup_steps": 50,
        "final_steps": 500,
    }
    config["plan"] |= {
        "world": "two_rooms",
        "alpha": 0.0,
        "tasks": {
            "near": {"offset": 25, "budget": 50},
            "far": {"offset": 60, "budget": 100},
        },
        # Noise that is alike over the steps of a plan finds ways around walls.
        "planners": {"icem": {"candidates": 64, "best": 8, "rounds": 6}},
        "exported": "icem",
        "seeds": 1,
        "at_once": 4,
    }
    return config


def two_rooms_adaln():
    """`two_rooms` with the predictor and the two-step rollout of JEPA-WM."""
    config = two_rooms()
    config |= {
        "conditioning": "adaln",
        "embed": {"action": 128, "proprio": 16},
        "predictor": {
            "width": 128,
            "depth": 4,
            "heads": 4,
            "head_dim": 32,
            "hidden": 512,
            "rope_grid": 4,
        },
        "objective": {"rollout": 2, "proprio": 0.0},
    }
    config["optimizer"] |= {"clip_norm": 1.0}
    return config


def pushing():
    r"""`two_rooms_adaln` on the pushing task, with an encoder of its pictures.

    python -m launch.train --config=configs/jepa.py:rooms --workdir=runs/pushing_encoder \
        --config.data.source=camera:pushing
    """
    config = two_rooms_adaln()
    config["data"] |= {"source": "pushing"}
    config["plan"] |= {
        "world": "pushing",
        "tasks": {"push": {"offset": 25, "budget": 50}},
        "execute": 2,
        "planners": {
            "icem": {"candidates": 64, "best": 8, "rounds": 4},
            "gradient": {"candidates": 4, "rounds": 20},
        },
    }
    return config
