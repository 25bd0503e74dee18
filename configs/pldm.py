"""PLDM (arXiv 2502.14819): recurrent latent world models that plan, end to end from pixels.

two_rooms, pushing: two CPU cores, on the embedded two rooms and the embedded pushing task:
python -m launch.train --config=configs/pldm.py:two_rooms --workdir=runs/pldm

wall: the published networks, weights and planner of two rooms at 65 pixels. eb_jepa: the small
variant of EB-JEPA there. vit: weights for the vision transformer of LeWorldModel at 224 pixels.
The trajectories are those of --config.data.source.
"""

from ml_collections import ConfigDict

from configs import run


def get_config(preset="two_rooms"):
    """The config of a preset by name; ValueError for an unknown one."""
    makers = {f.__name__: f for f in (two_rooms, pushing, wall, eb_jepa, vit)}
    if preset not in makers:
        raise ValueError(
            f"configs/pldm.py has no preset {preset!r}; use one of {', '.join(makers)}"
        )
    return ConfigDict(makers[preset]())


def wall():
    """As published: 3 epochs of 1.5M transitions, in batches of 64 clips."""
    return (
        run.fields()
        | {
            "method": "jepa.pldm",
            "steps": 70_000,
            "batch": 64,
            "log_steps": 50,
            "save_steps": 2000,
            "mesh": {"replica": 1, "data": -1, "fsdp": 1, "sequence": 1, "tensor": 1},
            "clip": {
                "frames": 17,
                "skip": 1,  # environment steps between frames; their actions are one block
            },
            "data": {
                "source": "two_rooms:15000:65",  # or another name of trajectories
                "size": 65,
                "image": "",  # name of the picture; empty: the first by name
            }
            | run.trajectories(),
            "encoder": {
                "kind": "impala",  # or "vit", "conv"
                "channels": (32, 64, 64),  # twice those of IMPALA
                "blocks": 2,
                "groups": 4,
            },
            "latent": {"width": 512},
            "inverse": {"hidden": 512},
            "objective": {
                "rollout": 16,  # steps that are predicted from the first frame
                "samples": "steps",  # of variance and covariance; "all": of all steps together
                "prediction": 1.0,
                "variance": 3.98,
                "covariance": 6.92,  # divided by D (D - 1)
                "temporal": 0.742,
                "inverse": 1.072,
                "variance_time": 0.245,
                "covariance_time": 0.0,
            },
            "optimizer": {
                "lr": {"kind": "constant", "value": 1e-3},
                "decay": {"kind": "constant", "value": 0.0},
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "clip_norm": 0.0,  # of all networks together; 0: never
                "clip_each": 0.0,  # of each network
            },
            "health": {"count": 256},  # validation clips
            "probe": {"train": 1024, "validation": 512},  # clips
            # As in configs/lewm.py. The cost sums all steps, as in EB-JEPA; the released config
            # of PLDM for the wall counts the last 3.
            "plan": {
                "world": "two_rooms",
                "window": 1,
                "last": 0,
                "tasks": {
                    "near": {"offset": 25, "budget": 50},
                    "far": {"offset": 60, "budget": 100},
                    "far_crossing": {"offset": 60, "budget": 100, "way": "blocked"},
                },
                "planners": {
                    # Deviation 12, clipped to the bounds. The temperature is in units of a
                    # squared distance that is summed over the latent.
                    "mppi": {
                        "candidates": 2000,
                        "best": 2000,
                        "rounds": 1,
                        "temperature": 0.005,
                        "std_min": 12.0,
                        "std_max": 12.0,
                    },
                    "icem": {"candidates": 300, "best": 30, "rounds": 15},
                    "cem": {
                        "candidates": 300,
                        "best": 30,
                        "rounds": 30,
                        "mean_first": True,
                    },
                },
                "exported": "mppi",  # of these, in an export and the benchmark
                "horizon": 96,  # blocks of a plan
                "execute": 4,  # of them that are carried out before the next plan
                "problems": 100,  # per seed and task
                "seeds": 3,
                "at_once": 8,  # problems solved together
                "bounded": True,
                "std": 1.0,  # of the first candidates, in normalized actions
            },
            # Steps between evaluations; 0: only after the last step, -1: never.
            "eval_steps": {"health": 2000, "probe": -1, "plan": -1},
        }
    )


def eb_jepa():
    """The two rooms of EB-JEPA: 12 epochs in batches of 384, rollouts of 8 steps."""
    config = wall()
    config |= {"steps": 47_000, "batch": 384}
    config["clip"] |= {"frames": 9}
    config["encoder"] |= {"channels": (16, 32, 32), "blocks": 1, "groups": 0}
    config["objective"] |= {
        "rollout": 8,
        "samples": "all",
        "variance": 16.0,
        "covariance": 8.0,
        "temporal": 12.0,
        "inverse": 1.0,
        "variance_time": 0.0,
    }
    config["optimizer"] |= {"clip_each": 2.0}
    config["optimizer"]["decay"] |= {"value": 1e-5}
    return config


def vit():
    """The weights of stable-worldmodel for its vision transformer; the predictor is PLDM's."""
    config = wall()
    config |= {"steps": 140_000, "batch": 128}
    config["clip"] |= {"frames": 4, "skip": 5}
    config["data"] |= {"source": "two_rooms:10000:224", "size": 224}
    config["encoder"] = {
        "kind": "vit",
        "patch": 14,
        "width": 192,
        "depth": 12,
        "heads": 3,
        "hidden": 768,
        "attention": "auto",
        "remat": "none",
    }
    config["latent"] = {"width": 192}
    config["objective"] |= {
        "rollout": 3,
        "variance": 18.0,
        "covariance": 12.0,
        "temporal": 0.2,
        "inverse": 0.0,
        "variance_time": 0.7,
    }
    config["optimizer"]["lr"] = {
        "kind": "warmup_cosine",
        "start": 0.0,
        "peak": 5e-5,
        "final": 0.0,
        "warmup_steps": 1400,
    }
    config["optimizer"] |= {"clip_norm": 1.0}
    config["optimizer"]["decay"] |= {"value": 1e-3}
    config["plan"] |= {"last": 1, "exported": "cem", "horizon": 5, "execute": 5}
    return config


def two_rooms():
    """A small model of 32-pixel images."""
    config = wall()
    config |= {"steps": 1000, "batch": 64, "save_steps": 500}
    config["clip"] |= {"frames": 7, "skip": 5}
    config["data"] |= {"source": "two_rooms:10000:32", "size": 32, "workers": 0}
    config["encoder"] = {"kind": "conv", "patch": 4, "channels": (32, 32), "kernel": 3}
    config["latent"] = {"width": 64}
    config["inverse"] = {"hidden": 128}
    config["objective"] |= {"rollout": 6}
    config["eval_steps"] |= {"health": 500, "probe": 0}
    config["plan"] |= {"horizon": 12, "execute": 3, "problems": 50}
    config["plan"]["planners"] |= {
        "mppi": {"candidates": 300, "best": 64, "rounds": 8, "temperature": 1.0},
        "icem": {"candidates": 300, "best": 30, "rounds": 10},
    }
    return config


def pushing():
    """The same model; the disc has to push a puck to its place."""
    config = two_rooms()
    config["steps"] = 2000
    config["data"] |= {"source": "pushing:10000:32"}
    config["plan"] |= {
        "world": "pushing",
        "tasks": {"push": {"offset": 25, "budget": 50}},
        "horizon": 5,
        "execute": 1,  # a push that goes wrong is corrected after one block
    }
    config["plan"]["planners"] |= {"gradient": {"candidates": 16, "rounds": 60}}
    return config
