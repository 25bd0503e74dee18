"""I-JEPA (arXiv 2301.08243): presets of configs/jepa.py.

tiny_image: two CPU cores, ten minutes, on single frames of the embedded physical world:
python -m launch.train --config=configs/jepa.py:tiny_image --workdir=runs/tiny_image

ijepa_h14, ijepa_h16_448: the released recipes, 300 epochs of 625 steps of 2,048 images, for
a folder of images such as ImageNet's. Token budgets are the mean lengths that remain of the
released sampler's context lists at 128 images on a device, and the largest target blocks.
"""

from configs.run import laid


def makers(base) -> dict:
    """Preset name -> function that returns its fields; base: () -> what all presets share."""
    return {
        "tiny_image": lambda: tiny(base()),
        "ijepa_h14": lambda: published(base(), size=224, patch=14, budget=(70, 54)),
        "ijepa_h16_448": lambda: published(
            base(), size=448, patch=16, budget=(234, 154)
        ),
    }


MACHINES = {
    "ijepa_h14": {
        "h200:1x1": laid(4, "dots", data=1, fsdp=1),
        "h200:1x8": laid(1, "dots", data=1, fsdp=8),
        "v5e:4x8": laid(1, "dots", data=2, fsdp=16),
    },
    "ijepa_h16_448": {
        "h200:1x8": laid(1, "dots", data=1, fsdp=8),
        "v5p:2x2x4": laid(2, "dots", data=2, fsdp=8),
    },
}


def published(config: dict, *, size: int, patch: int, budget: tuple[int, int]) -> dict:
    """ViT-H; budget: tokens of the context and of each target block."""
    context, target = budget
    config |= {
        "method": "jepa.image",
        "steps": 300 * 625,
        "batch": 2048,
        "encoder": {
            "size": "H",
            "patch": (1, patch, patch),
            "positions": "sincos2d",
            "rescale": False,
            "remat": "block",
            "attention": "auto",
        },
        "predictor": {
            "width": 384,
            "depth": 12,
            "heads": 16,
            "hidden": 1536,
            "mask_std": 0.02,
        },
        "masks": {
            "blocks": 4,
            "target_scale": (0.15, 0.2),
            "target_aspect": (0.75, 1.5),
            "context_scale": (0.85, 1.0),
            "context_aspect": (1.0, 1.0),
            "least": 10,
            "context": context,
            "target": target,
        },
        "optimizer": {
            "lr": {
                "kind": "warmup_cosine",
                "start": 2e-4,
                "peak": 1e-3,
                "final": 1e-6,
                "warmup_steps": 40 * 625,
            },
            "decay": {"kind": "cosine", "start": 0.04, "final": 0.4},
            "momentum": {"kind": "linear", "start": 0.996, "final": 1.0},
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "clip_norm": 0.0,
            "clip_steps": 0,
        },
    }
    config["data"] |= {
        "source": "images:data/imagenet/train",
        "frames": 16,  # of the clips of evaluations, which are read frame by frame
        "size": size,
        "scale": (0.3, 1.0),
        "aspect": (0.75, 1.3333),
        "flip": False,
    }
    del config["objective"]
    return config


def tiny(config: dict) -> dict:
    """The encoder of `tiny` on patches of 8 x 8 pixels of single frames."""
    config = published(config, size=64, patch=8, budget=(22, 12))
    config |= {"steps": 1000, "batch": 32, "save_steps": 250}
    config["encoder"] |= {"size": "tiny", "remat": "none"}
    config["predictor"] |= {"width": 64, "depth": 2, "heads": 4, "hidden": 256}
    config["masks"]["least"] = 4
    config["optimizer"]["lr"] |= {
        "start": 0.0,
        "peak": 2e-3,
        "final": 1e-4,
        "warmup_steps": 100,
    }
    config["optimizer"]["decay"] = {"kind": "constant", "value": 0.04}
    config["optimizer"]["momentum"]["start"] = 0.998
    config["data"] |= {"source": "frames:world", "frames": 8, "workers": 2}
    config["eval_steps"] |= {"health": 250, "pictures": 500, "probe": 0, "baselines": 0}
    config["probe"] |= {"train_clips": 1500, "steps": 250, "lr": 4e-3}
    # A step of the supervised twin then costs as much as one of the method.
    config["probe"]["twin_clips"] = 4
    return config
