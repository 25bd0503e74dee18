"""LeWorldModel (arXiv 2603.19312): latent world models that plan, end to end from pixels.

two_rooms, pushing: two CPU cores, on the embedded two rooms or pushing task:
python -m launch.train --config=configs/lewm.py:two_rooms --workdir=runs/lewm

reacher: the same on DeepMind Control's reacher, whose recordings launch.prepare is to make.

pusht: the published networks and schedule at 224 pixels, 18.0M weights; the trajectories are
those of --config.data.source, such as a LeRobot folder of PushT.
"""

from ml_collections import ConfigDict

from configs import run


def get_config(preset="two_rooms"):
    """The config of a preset by name; ValueError for an unknown one."""
    makers = {
        "two_rooms": two_rooms,
        "pushing": pushing,
        "reacher": reacher,
        "pusht": pusht,
    }
    if preset not in makers:
        raise ValueError(
            f"configs/lewm.py has no preset {preset!r}; use one of {', '.join(makers)}"
        )
    return ConfigDict(makers[preset]())


def pusht():
    """As published: 10 epochs of 1.8M clips, in batches of 128."""
    return run.fields() | {
        "method": "jepa.lewm",
        "steps": 140_000,
        "batch": 128,
        "log_steps": 50,
        "save_steps": 2000,
        "mesh": {"replica": 1, "data": -1, "fsdp": 1, "sequence": 1, "tensor": 1},
        "clip": {
            "history": 3,  # frames that a prediction may see
            "skip": 5,  # environment steps between frames; their actions are one block
        },
        "data": {
            "source": "two_rooms:10000:224",  # or another name of trajectories
            "size": 224,
            "image": "",  # name of the picture; empty: the first by name
        }
        | run.trajectories(),
        "encoder": {
            "kind": "vit",  # or "conv"
            "patch": 14,
            "width": 192,
            "depth": 12,
            "heads": 3,
            "hidden": 768,
            "attention": "auto",
            "remat": "none",
        },
        "latent": {"width": 192, "hidden": 2048},  # hidden: of both projectors
        "action": {"smooth": 10, "hidden": 768},
        "predictor": {
            "width": 192,
            "depth": 6,
            "heads": 16,
            "head_dim": 64,
            "hidden": 2048,
            "dropout": 0.1,
        },
        "objective": {
            "sigreg_weight": 0.09,
            "slices": 1024,
            "knots": 17,
            "variance": 0.0,  # terms of VICReg, in place of SIGReg
            "covariance": 0.0,
        },
        "optimizer": {
            "lr": {
                "kind": "warmup_cosine",
                "start": 0.0,
                "peak": 5e-5,
                "final": 0.0,
                "warmup_steps": 1400,
            },
            "decay": {"kind": "constant", "value": 1e-3},
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "clip_norm": 1.0,
        },
        "health": {"count": 256},  # validation clips
        "probe": {"train": 1024, "validation": 512},  # clips
        # Plans are carried out in a world; goals are states `offset` steps later in validation
        # episodes, to be reached in `budget` steps.
        "plan": {
            "world": "",  # as two_rooms or dmc:TASK; "" if plans are only exported
            "window": 1,  # frames that a predicted step sees, up to clip.history
            # Of the horizon's blocks, how many of the last the cost counts; 0: all. All where
            # `execute` is small: else each new plan may put the goal off.
            "last": 1,
            "tasks": {
                "near": {"offset": 25, "budget": 50},
                "far": {"offset": 60, "budget": 100},
            },
            "planners": {
                # Noise that is alike over the steps of a plan finds ways around walls.
                "icem": {"candidates": 300, "best": 30, "rounds": 15},
                "cem": {
                    "candidates": 300,
                    "best": 30,
                    "rounds": 30,
                    "mean_first": True,
                },
            },
            "exported": "icem",  # of these, in an export and the benchmark
            "horizon": 5,  # blocks of a plan
            "execute": 5,  # of them that are carried out before the next plan
            "problems": 100,  # per seed and task
            "seeds": 3,
            "at_once": 8,  # problems solved together
            "bounded": True,
            "std": 1.0,  # of the first candidates, in normalized actions
        },
        # Steps between evaluations; 0: only after the last step, -1: never.
        "eval_steps": {"health": 2000, "probe": -1, "plan": -1},
    }


def two_rooms():
    """A small model of 32-pixel images."""
    config = pusht()
    config |= {
        "steps": 1000,
        "batch": 64,
        "log_steps": 50,
        "save_steps": 500,
        "encoder": {"kind": "conv", "patch": 4, "channels": (32, 32), "kernel": 3},
        "latent": {"width": 16, "hidden": 256},
        "action": {"smooth": 10, "hidden": 128},
        "predictor": {
            "width": 64,
            "depth": 2,
            "heads": 4,
            "head_dim": 16,
            "hidden": 128,
            "dropout": 0.0,
        },
        "eval_steps": {"health": 500, "probe": 0, "plan": -1},
    }
    config["plan"]["world"] = "two_rooms"
    blocked = {"offset": 60, "budget": 100, "way": "blocked"}  # by the wall
    config["plan"]["tasks"]["far_crossing"] = blocked
    config["data"] |= {"source": "two_rooms:10000:32", "size": 32, "workers": 0}
    # At the published 0.09 two places more than a fifth of the picture apart are equally far
    # in the latent, and distant goals give plans no direction; at 0.003 latents collapse.
    config["objective"] |= {"sigreg_weight": 0.01, "slices": 256}
    config["optimizer"]["lr"] |= {"peak": 1e-3, "warmup_steps": 50}
    return config


def pushing():
    """A disc that pushes a puck; goals are places of the puck.

    Functions of the disc alone can fill all latents, and are the easiest to predict: with the
    weight of two_rooms the puck is left out of them.
    """
    config = two_rooms()
    config["steps"] = 4000
    config["data"] |= {"source": "pushing:10000:32"}
    config["latent"]["width"] = 32
    config["objective"]["sigreg_weight"] = 0.05
    config["plan"] |= {
        "world": "pushing",
        "tasks": {"push": {"offset": 25, "budget": 50}},
        "execute": 1,  # a push that goes wrong is corrected after one block
        # With the last block alone, each new plan may put off the push once more.
        "last": 0,
    }
    config["plan"]["planners"] |= {
        "mppi": {"candidates": 300, "best": 30, "rounds": 15},
        "gradient": {"candidates": 16, "rounds": 60},
    }
    return config


def reacher():
    """An arm of two joints, moved by torques; its states have velocities."""
    config = two_rooms()
    config["steps"] = 2000
    config["eval_steps"]["probe"] = -1  # recordings lack positions in the picture
    # Its pictures take milliseconds each: see docs/planning_and_agents.md for a stored set.
    config["data"] |= {"source": "dmc:reacher_easy:400:32"}
    config["latent"]["width"] = 32
    config["objective"]["sigreg_weight"] = 0.05
    config["plan"] |= {
        "world": "dmc:reacher_easy",
        "tasks": {
            "near": {"offset": 25, "budget": 50},
            "sampled": {"offset": 0, "budget": 100},
        },
        "window": 3,
        "execute": 1,
        "last": 0,  # as in pushing
    }
    return config
