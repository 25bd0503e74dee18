r"""V-JEPA 2-AC (arXiv 2506.09985): actions in the features of a frozen encoder.

two_rooms: two CPU cores, on the embedded two rooms, with an encoder that is trained first:
python -m launch.train --config=configs/jepa.py:rooms --workdir=runs/rooms
python -m launch.train --config=configs/ac.py:two_rooms --workdir=runs/ac \
    --config.init_from=runs/rooms

arm: likewise on the embedded arm, with the encoder configs/jepa.py:arm.

droid: the published networks and schedule, on recordings of a Franka arm.
"""

from ml_collections import ConfigDict

from configs import run


def get_config(preset="two_rooms"):
    """The config of a preset by name; ValueError for an unknown one."""
    makers = {"two_rooms": two_rooms, "arm": arm, "droid": droid}
    if preset not in makers:
        raise ValueError(
            f"configs/ac.py has no preset {preset!r}; use one of {', '.join(makers)}"
        )
    return ConfigDict(makers[preset]())


def droid():
    """As published: 315 epochs of 300 steps on 62 hours at 4 frames per second."""
    return run.fields() | {
        "method": "jepa.ac",
        "init_parts": "encoder",  # of encoder,predictor,opt
        "random_encoder": False,  # whether an empty init_from is meant
        "steps": 94_500,
        "batch": 256,
        "clip": {
            "frames": 8,
            "skip": 4,  # environment steps between frames: 4 a second of DROID's 15
        },
        # Robots by name, with the numbers of their actions and states; each has maps of its
        # own into the predictor. embodiment: the one of the data.
        "embodiments": {"droid": {"action": 7, "state": 7}},
        "embodiment": "droid",
        "data": {
            "source": "",  # a name of trajectories in core/data/source_names.py
            "size": 256,
            "images": (
                "",
            ),  # name of the picture of each view; "" is the first by name
            "states": ("state",),  # observations that make the state; none: one 0
            "action": "pose",  # or concatenated, summed: of the recorded actions
        }
        | run.trajectories(),
        "encoder": {
            "size": "g",
            "patch": (2, 16, 16),
            "positions": "tiled",
            "rescale": True,
            "remat": "block",
            "attention": "auto",
        },
        "predictor": {
            "width": 1024,
            "depth": 24,
            "heads": 16,
            "hidden": 4096,
            "rope_grid": 16,
        },
        "objective": {"rollout": 2},  # steps; 1: teacher forcing alone
        "optimizer": {
            "lr": {
                "kind": "warmup_constant_linear",
                "start": 7.5e-5,
                "peak": 4.25e-4,
                "final": 0.0,
                "warmup_steps": 4500,
                "final_steps": 4500,
            },
            "decay": {"kind": "constant", "value": 0.04},
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "clip_norm": 0.0,
        },
        # Validation clips, frames ahead, and actions tried per clip.
        "rollout": {"clips": 64, "horizon": 6, "tried": 200},
        # As in configs/lewm.py; the cost is the energy after the last block.
        "plan": {
            "world": "",
            "window": 1,
            "last": 1,
            "tasks": {"near": {"offset": 10, "budget": 25}},
            "planners": {
                "cem": {"candidates": 400, "best": 10, "rounds": 10, "momentum": 0.15}
            },
            "exported": "cem",
            "horizon": 2,
            "execute": 1,
            "problems": 100,
            "seeds": 3,
            "at_once": 1,
            "bounded": True,
            "std": 0.05,
        },
        # Steps between evaluations; 0: only after the last step, -1: never.
        "eval_steps": {"rollout": 5000, "plan": -1},
    }


def two_rooms():
    """A small predictor, whose actions are the sums of five steps."""
    config = droid()
    config |= {
        "steps": 3000,
        "batch": 24,
        "save_steps": 500,
        "embodiments": {"disc": {"action": 2, "state": 1}},
        "embodiment": "disc",
        "rollout": {"clips": 128, "horizon": 6, "tried": 400},
        "eval_steps": {"rollout": 0, "plan": -1},
    }
    config["clip"] |= {"frames": 5, "skip": 5}
    config["plan"] |= {
        "world": "two_rooms",
        # near holds pairs that a random walk finds. reach has no wall on the straight way, as
        # the paper's task of this name has no obstacles, and random walks seldom solve it.
        "tasks": {
            "near": {"offset": 25, "budget": 50},
            "reach": {"offset": 25, "budget": 50, "way": "clear", "apart": 0.2},
            "far_crossing": {"offset": 60, "budget": 100, "way": "blocked"},
        },
        # Features of two places are equally far from a distance of .15 on: candidates that
        # differ for several steps find a way to the goal.
        "planners": {
            "icem": {"candidates": 64, "best": 8, "rounds": 3},
            "cem": {"candidates": 64, "best": 8, "rounds": 6},
        },
        "exported": "icem",
        "horizon": 4,
        "execute": 2,
        "problems": 50,
        "at_once": 4,
        "std": 0.7,
    }
    config["data"] |= {
        "source": "two_rooms",
        "size": 64,
        "states": (),
        "action": "summed",
        "workers": 0,
    }
    config["encoder"] |= {"size": "tiny", "remat": "none"}
    config["predictor"] |= {
        "width": 128,
        "depth": 4,
        "heads": 4,
        "hidden": 512,
        "rope_grid": 4,
    }
    config["optimizer"]["lr"] |= {
        "start": 1e-4,
        "peak": 1e-3,
        "warmup_steps": 75,
        "final_steps": 300,
    }
    return config


def arm():
    """The same predictor on the embedded arm.

    The further two poses are apart, the further are their features: the cost of a plan
    shows the way from afar, unlike in two_rooms.
    """
    config = two_rooms()
    config["steps"] = 4000
    config["data"] |= {"source": "arm"}
    config["plan"] |= {
        "world": "arm",
        "tasks": {"reach": {"offset": 25, "budget": 50, "apart": 0.15}},
        "planners": {
            "icem": {"candidates": 128, "best": 12, "rounds": 4},
            "cem": {"candidates": 128, "best": 12, "rounds": 4},
        },
    }
    return config
