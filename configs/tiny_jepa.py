"""Presets of configs/jepa.py for two CPU cores: tiny and its variants, rooms, arm, atari."""


def makers(base, dense_objective) -> dict:
    """Preset name -> function that returns its fields.

    base: () -> what all presets share. dense_objective: () -> the objective of V-JEPA 2.1.
    """
    return {
        "tiny": lambda: tiny(base()),
        "tiny_textured": lambda: tiny_textured(base()),
        "tiny_dense": lambda: tiny_dense(base(), dense_objective()),
        "rooms": lambda: recorded(base(), "two_rooms"),
        "arm": lambda: arm(base()),
        "atari": lambda: atari(base()),
    }


def tiny(config):
    """A small encoder on the embedded world, for two CPU cores and ten minutes.

    The objective is V-JEPA 2's. In a short run the target has to be slow from the start:
    with momentum .99 in place of .998 the probe scores are lower. Tubes of cells teach
    where bodies are; hidden time steps teach where they go.
    """
    budget = {"context": 8, "target": 8}
    tubes = {"blocks": 2, "spatial_scale": (0.25, 0.25), **budget}
    steps = {"blocks": 1, "spatial_scale": (1.0, 1.0), "aspect": (1.0, 1.0), **budget}
    steps["temporal_scale"] = (0.5, 0.5)
    config |= {
        "steps": 7000,
        "batch": 16,
        "save_steps": 500,
        "encoder": {
            "size": "tiny",
            "patch": (2, 16, 16),
            "positions": "tiled",
            "rescale": True,
            "remat": "none",
            "attention": "auto",
        },
        "predictor": {
            "width": 64,
            "depth": 2,
            "heads": 4,
            "hidden": 256,
            "mask_tokens": 1,
        },
        "optimizer": {
            "lr": {
                "kind": "warmup_cosine",
                "start": 0.0,
                "peak": 2e-3,
                "final": 1e-4,
                "warmup_steps": 200,
            },
            "decay": {"kind": "constant", "value": 0.04},
            "momentum": {"kind": "linear", "start": 0.998, "final": 1.0},
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "clip_norm": 0.0,
            "clip_steps": 0,
        },
        "masks": {
            "truncation": "cells",
            "patterns": {"tubes": tubes, "steps": steps},
        },
    }
    config["objective"] |= {"mask_token_per_pattern": False}
    config["data"] |= {"frames": 8, "size": 64, "workers": 2}
    often = {"health": 250, "pictures": 1000, "probe": 1000, "baselines": 0}
    config["eval_steps"] |= often
    config["probe"] |= {"train_clips": 3000, "steps": 1000, "lr": 4e-3}
    return config


def tiny_textured(config):
    """`tiny` on bodies with patterns over a floor that drifts by, at 96 pixels.

    There are 2.25 times as many tokens as in `tiny`; as there, patterns hide half of them.
    """
    config = tiny(config)
    config |= {"steps": 2500}
    for pattern in config["masks"]["patterns"].values():
        pattern |= {"context": 18, "target": 18}
    config["data"] |= {"level": "textured", "size": 96}
    config["eval_steps"] |= {"pictures": 500, "probe": 0, "baselines": -1}
    config["probe"] |= {"train_clips": 2000, "steps": 500}
    return config


def tiny_dense(config, objective):
    """`tiny` with the objective of V-JEPA 2.1: four levels, context loss, images.

    In so few steps an average that begins at .998 is still a fifth of the first weights at
    the end: positions are read worse (R2 .71 after 1500 steps, .79 after 1000 from .99).
    """
    config = tiny(config)
    config |= {"method": "jepa.dense", "steps": 1000}
    config["encoder"] |= {"positions": "paired", "levels": 4, "rope_grid": 4}
    config["predictor"] |= {"levels": 4, "out": 0}
    image = {"blocks": 2, "spatial_scale": (0.25, 0.25), "context": 8, "target": 8}
    config["masks"]["image_patterns"] = {"blocks": image}
    config["objective"] = objective
    config["optimizer"]["momentum"] |= {"start": 0.99}
    config["probe"] |= {"steps": 500}
    config["eval_steps"] |= {"probe": 0}
    return config


def recorded(config, source):
    """`tiny` on an embedded task, as the frozen encoder of other methods.

    Most of the picture never changes, as in `atari`: VICReg's terms keep features apart. In
    longer runs on two_rooms less and less of the features is about the disc (mean difference
    of the features of two places .07 in place of .14 after twice the steps).
    """
    config = tiny(config)
    config |= {"steps": 1000}
    config["objective"] |= {"vicreg": 0.5}
    config["data"] |= {
        "source": f"camera:{source}",
        "fps": 4.0,
        "scale": (1.0, 1.0),  # the whole picture, as positions are of the picture
        "aspect": (1.0, 1.0),
        "flip": False,
    }
    config["eval_steps"] |= {"probe": -1, "baselines": -1}
    return config


def arm(config):
    """`recorded` on the arm, without VICReg's terms.

    With them features of poses further than .2 apart are equally far (rank correlation of
    the distances of features and of places .16, without them .64), and plans do not find
    the way. Nothing collapses within these steps, but differences of features shrink.
    """
    config = recorded(config, "arm")
    config["objective"] |= {"vicreg": 0.0}
    return config


def atari(config):
    """The network of `tiny` on the screen of an Atari game, half a second of play.

    Most of a screen never changes, so that features that say nothing of the objects predict
    each other well: with the objective of V-JEPA 2 alone they collapse (std over inputs 0.03
    in Pong after 1500 steps). VICReg's terms keep them apart, and tubelets that move get
    most of the loss. Blocks hide half of the time steps: a ball that is hidden in all of them
    cannot be predicted. With a faster average, features kept the largest moving object alone.
    """
    config = tiny(config)
    config |= {"steps": 1200, "batch": 16}
    config["objective"] |= {"vicreg": 2.0, "motion": 0.8}
    config["optimizer"]["momentum"] |= {"start": 0.999}
    tubes = {"blocks": 4, "temporal_scale": (0.5, 0.5)}
    config["masks"]["patterns"]["tubes"] |= tubes
    config["data"] |= {
        "source": "camera:data/pong",  # of launch.prepare --from=atari:pong:160 --size=64
        "fps": 15.0,  # all recorded steps
        "scale": (1.0, 1.0),  # the whole screen, as positions are of the screen
        "aspect": (1.0, 1.0),
        "flip": False,
    }
    config["eval_steps"] |= {"probe": -1, "baselines": -1, "objects": -1}
    config["objects"] = {
        "labels": (100, 300),  # clips that heads are fitted to
        "heads": ("ridge",),  # attentive1 takes much longer
        "encoders": ("trained", "untrained", "pixels", "twin"),
        "held_clips": 400,
        "horizon_s": 1.0,
        "twin": {"steps": 1500, "batch": 8, "lr": 1e-3},
    }
    return config
