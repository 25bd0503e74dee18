"""LeVJEPA (arXiv 2608.27395): presets of configs/jepa.py.

tiny_levjepa: two CPU cores, ten minutes, on the embedded physical world:
python -m launch.train --config=configs/jepa.py:tiny_levjepa --workdir=runs/tiny_levjepa

levjepa_b, levjepa_l: the released recipe, 3,072 clips a step. Its length is that of the
released ViT-B run on Walking Tours, 26 epochs of 395 steps; the rate is flat after warm-up,
so that --config.steps changes nothing else. The released code draws the 5% of the tokens
over the whole clip; here a causal encoder sees as many of every frame, and
--config.encoder.causal=false draws over the whole clip.
"""

from configs.run import laid


def makers(base) -> dict:
    """Preset name -> function that returns its fields; base: () -> what all presets share."""
    return {
        "tiny_levjepa": lambda: tiny(base()),
        "levjepa_b": lambda: published(base(), "B"),
        "levjepa_l": lambda: published(base(), "L"),
    }


# SIGReg and batch norm look at all clips together, so that a batch is taken in one part.
MACHINES = {
    "levjepa_b": {
        "h200:1x1": laid(1, "block", data=1, fsdp=1),
        "v5e:4x4": laid(1, "block", data=2, fsdp=8),
    },
    "levjepa_l": {"h200:1x8": laid(1, "block", data=1, fsdp=8)},
}

COLOUR = {
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "share": 0.8,
    "gray": 0.2,
}


def shared(config: dict) -> dict:
    """Fields of all presets: views, colors, schedule."""
    config["method"] = "jepa.levjepa"
    # Of the global view, which keeps its colors and is not mirrored.
    config["data"] |= {"scale": (0.8, 1.0), "aspect": (0.75, 1.3333), "flip": False}
    config["colour"] = dict(COLOUR)  # of the local views
    config["views"] = {
        "keep": 0.05,  # share of the tokens that the encoder sees in training
        "count": 10,  # local views
        "size": 96,
        "scale": (0.02, 0.4),
        "aspect": (0.75, 1.3333),
        "flip": True,
    }
    config["objective"] = {"sigreg_weight": 0.02, "slices": 1024}
    config["optimizer"] = {
        "lr": {
            "kind": "warmup_constant",
            "start": 1e-4,
            "peak": 4e-4,
            "warmup_steps": 1200,
        },
        "decay": {"kind": "constant", "value": 0.04},
        "betas": (0.9, 0.95),
        "eps": 1e-8,
        "average": 0.9999,  # momentum of the average for evaluations; 0: none
    }
    return config


def published(config: dict, size: str) -> dict:
    """The released recipe: 16 frames at 7.5 a second, a token per frame."""
    config = shared(config)
    config |= {
        "steps": 26 * 395,
        "batch": 3072,
        "held_batch": 256,
        "encoder": {
            "size": size,
            "patch": (1, 16, 16),
            "causal": True,
            "positions": "tiled",
            "rescale": True,
            "remat": "block",
            "attention": "auto",
        },
        "projector": {"hidden": 2048, "out": 256},
    }
    config["data"] |= {"frames": 16, "fps": 7.5, "size": 224}
    return config


def tiny(config: dict) -> dict:
    """The encoder of `tiny` on its clips, with a token per frame.

    SIGReg has the number of clips as a factor. At 0.02 and 64 clips a collapse costs 0.5,
    less than views that share little; at 3,072 clips it costs 25, at 0.25 and 64 clips 6.
    """
    config = shared(config)
    config |= {
        "steps": 600,
        "batch": 64,
        "held_batch": 64,
        "save_steps": 200,
        "encoder": {
            "size": "tiny",
            "patch": (1, 16, 16),
            "causal": False,
            "positions": "tiled",
            "rescale": True,
            "remat": "none",
            "attention": "auto",
        },
        "projector": {"hidden": 512, "out": 64},
    }
    config["data"] |= {"frames": 8, "size": 64, "workers": 2}
    config["views"] |= {"count": 4, "size": 32}
    config["objective"] |= {"sigreg_weight": 0.25, "slices": 256}
    config["optimizer"]["lr"] |= {"start": 0.0, "peak": 1e-3, "warmup_steps": 100}
    config["optimizer"]["average"] = 0.0
    config["eval_steps"] |= {"health": 100, "pictures": 300, "probe": 0, "baselines": 0}
    config["probe"] |= {"train_clips": 1500, "steps": 500, "lr": 4e-3}
    # A step of the supervised twin then costs as much as one of the method.
    config["probe"]["twin_clips"] = 7
    return config
