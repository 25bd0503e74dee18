"""V-JEPA, V-JEPA 2 and 2.1, LeVJEPA and I-JEPA (arXiv 2404.08471, 2506.09985, 2603.14482).

tiny: two CPU cores, about ten minutes, on the embedded physical world:
python -m launch.train --config=configs/jepa.py:tiny --workdir=runs/tiny

tiny_textured: the same on bodies with patterns, at 96 pixels: for pictures to look at.

rooms, arm: the encoders of configs/ac.py:two_rooms and of configs/ac.py:arm.

atari: the same on frames of a game, which launch.prepare --from=atari:GAME:160 plays.

Published recipes: v1_l, v1_h, v1_h384, v2_l, v2_h, v2_g. Their cooldowns v2_l_cooldown,
v2_h_cooldown, v2_g_cooldown and v2_g384_cooldown start from the last checkpoint of the
first phase (--config.init_from=WORKDIR). V-JEPA 2 g takes 252,000 steps of 3,072 clips.
The released cooldowns stretch their schedule by 1.25, so that the rate ends at 1.06e-4;
--config.optimizer.lr.stretch=1.0 gives the paper's 1e-6. v2_G is the same recipe for the
1.8B encoder of arXiv 2603.14482.

V-JEPA 2.1 (method jepa.dense): v2_1_b, v2_1_l, v2_1_g, v2_1_G have the networks of the
public checkpoints, which the public training configs do not always have: B and L are
distilled, with predictors of 12 blocks and one level as wide as G, their teacher. These are
read and evaluated; distill_b and distill_l train them, and to train B or L without a teacher
set --config.predictor.out=0, as their layouts for machines do. Rates, steps and batch are
the paper's. Images are the first frames of clips. v2_1_g384_cooldown and v2_1_G384_cooldown
start from the end of the first phase. tiny_dense is tiny with this objective.

configs/levjepa.py, configs/ijepa.py and configs/distill.py describe tiny_levjepa, levjepa_b,
levjepa_l, tiny_image, ijepa_h14, ijepa_h16_448, and tiny_distill, distill_b, distill_l.

To continue from published weights on other videos:
--config=configs/jepa.py:v2_l --config.init_from=FOLDER, with a Hugging Face folder such
as facebook/vjepa2-vitl-fpc64-256, downloaded before.

v2_l@h200:1x8 is a recipe as published, laid out for a machine of MACHINES.
docs/scaling.md says what to expect there.
"""

from ml_collections import ConfigDict

from configs import distill, ijepa, levjepa, run, tiny_jepa
from configs.run import laid

WORDS = (
    "tiny, atari, rooms, arm, v1_l, v1_h, v1_h384, v2_l, v2_h, v2_g, v2_G, v2_l_cooldown, "
    "v2_h_cooldown, v2_g_cooldown, v2_g384_cooldown, tiny_textured, tiny_dense, v2_1_b, "
    "v2_1_l, v2_1_g, v2_1_G, v2_1_g384_cooldown, v2_1_G384_cooldown, tiny_levjepa, "
    "levjepa_b, levjepa_l, tiny_image, ijepa_h14, ijepa_h16_448, tiny_distill, distill_b, "
    "distill_l"
)


# Machines of core/hardware.py that a recipe is laid out for; "2x" is two slices. A weight
# is split over so few devices that each holds a multiple of eight rows.
MACHINES = {
    "v2_l": {
        "h200:1x1": laid(24, "dots", data=1, fsdp=1),
        "h200:1x8": laid(3, "dots", data=1, fsdp=8),
        "h100:4x8": laid(2, "dots", data=4, fsdp=8),
        "v4:4x4x8": laid(2, "dots", data=8, fsdp=16),
        "v5e:16x16": laid(1, "dots", data=16, fsdp=16),
        "2xv5e:16x16": laid(1, "dots", data=16, fsdp=16, replica=2),
        "v6e:16x16": laid(1, "dots", data=16, fsdp=16),
    },
    "v2_g": {
        "v5p:4x4x8": laid(1, "dots", data=8, fsdp=16),
        "v5p:8x8x8": laid(1, "dots", data=32, fsdp=16),
        "h100:64x8": laid(1, "dots", data=64, fsdp=8),
    },
    "v2_g384_cooldown": {"v5p:4x8x8": laid(2, "attention", data=16, fsdp=16)},
    "v2_G": {
        "v5p:4x8x8": laid(1, "dots", data=16, fsdp=16),
        "h100:32x8": laid(1, "dots", data=32, fsdp=8),
    },
    # B and L without a teacher, which is how they can be trained by themselves.
    "v2_1_b": {
        "h200:1x1": laid(1, "dots", data=1, fsdp=1) | {"predictor.out": 0},
    },
    "v2_1_l": {
        "h200:1x8": laid(1, "dots", data=1, fsdp=8) | {"predictor.out": 0},
        "v5e:4x4": laid(1, "dots", data=2, fsdp=8) | {"predictor.out": 0},
    },
    "v2_1_g": {"h100:1x8": laid(1, "dots", data=1, fsdp=8)},
    "v2_1_G": {
        "h200:1x1": laid(8, "dots", data=1, fsdp=1),
        "h200:1x8": laid(1, "dots", data=1, fsdp=8),
        "v5p:2x2x4": laid(1, "dots", data=2, fsdp=8),
    },
    "v2_1_g384_cooldown": {"h200:1x8": laid(2, "attention", data=1, fsdp=8)},
    "v2_1_G384_cooldown": {
        "h200:1x8": laid(4, "attention", data=1, fsdp=8),
        "v5p:4x4x4": laid(1, "attention", data=4, fsdp=16),
    },
    **distill.MACHINES,
    **ijepa.MACHINES,
    **levjepa.MACHINES,
}


def get_config(size="tiny"):
    """The config of a preset; raises ValueError for unknown names."""
    makers = tiny_jepa.makers(base, dense_objective)
    for letter in "lh":
        makers[f"v1_{letter}"] = lambda letter=letter: v1(letter.upper())
    makers["v1_h384"] = lambda: v1("H", size=384)
    for letter, name in (("l", "L"), ("h", "H"), ("g", "g"), ("G", "G")):
        makers[f"v2_{letter}"] = lambda name=name: v2(name)
        makers[f"v2_{letter}_cooldown"] = lambda name=name: cooldown(name)
    makers["v2_g384_cooldown"] = lambda: cooldown("g", size=384)
    for letter, name in (("b", "B"), ("l", "L"), ("g", "g"), ("G", "G")):
        makers[f"v2_1_{letter}"] = lambda name=name: v2_1(name)
    for letter in "gG":
        makers[f"v2_1_{letter}384_cooldown"] = lambda letter=letter: cooldown21(letter)
    makers |= levjepa.makers(base) | ijepa.makers(base)
    makers |= distill.makers(v2_1, makers["tiny_dense"])
    if size not in makers:
        raise ValueError(f"configs/jepa.py has no preset {size!r}; use one of {WORDS}")
    return ConfigDict(makers[size]())


def base():
    """What all presets share."""
    return run.fields() | {
        "method": "jepa.pretrain",
        "held_batch": 32,
        "data": {
            "source": "world",  # or another name of core/data/source_names.py
            "frames": 16,
            "size": 256,
            "fps": 4.0,  # frames of a clip per second
            "scale": (0.3, 1.0),
            "aspect": (0.75, 1.35),
            "flip": True,
            # Clips stay YUV with color at half the resolution, as in video files, and
            # become RGB on the device: less to resize, half the bytes to transfer.
            "planar": False,
            "crops": 1,  # clips cut from a stretch of video that is decoded once
            "level": "cluttered",
            "bodies": 3,
            "workers": 8,
            "max_bad_share": 0.01,
            # How far the frame of a recorded step may be from its time stamp, in frame
            # intervals of the data set; further away, the step is a bad sample.
            "frame_tolerance": 0.5,
            "stall_s": 300.0,  # without any sample, until the run is saved and fails
        },
        # A clip's factors are uniform in [1 - x, 1 + x].
        "colour": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0},
        "objective": {"sigreg": 0.0, "vicreg": 0.0, "motion": 0.0},
        # Evaluations by number of steps between them; 0: after the last, -1: never.
        "eval_steps": {
            "health": 500,
            "pictures": 5000,
            "probe": -1,
            "baselines": -1,
            "physical": -1,
            "dense": -1,
            "surprise": -1,
        },
        "probe": {
            "train_clips": 2000,
            "held_clips": 500,
            "steps": 500,
            "batch": 64,
            "lr": 2e-3,
            # Clips in a step of the supervised twin; 0: as many as the encoder sees.
            "twin_clips": 0,
            # Frames, rows, columns whose tokens the probe sees as one; (0, 0, 0): a patch.
            "tubelet": (0, 0, 0),
        },
        # Of physical, dense and surprise: clips, steps of their heads, pairs of twins.
        "physical": {
            "train_clips": 800,
            "held_clips": 400,
            "steps": 200,
            "pairs": 300,
            # Of dense: frames, rows and columns that a body is named for, (0, 0, 0): those
            # of a token; whether the supervised twin is read too.
            "cell": (0, 0, 0),
            "twin": False,
        },
    }


def published(size, *, steps, batch, mask_tokens, positions, rescale):
    """What the released recipes share: networks by size, and the length of training."""
    config = base()
    config |= {
        "steps": steps,
        "batch": batch,
        "encoder": {
            "size": size,
            "patch": (2, 16, 16),
            "positions": positions,
            "rescale": rescale,
            "remat": "block",
            "attention": "auto",
        },
        "predictor": {
            "width": 384,
            "depth": 12,
            "heads": 12,
            "hidden": 1536,
            "mask_tokens": mask_tokens,
        },
    }
    return config


# (pixels, clips per device): (context, target) of short blocks, (context, target) of long
# ones, in cells per time step. The released sampler cuts the token lists of a device to the
# shortest; these are the mean lengths that remain, over the random block sizes.
BUDGETS = {
    (224, 24): ((46, 94), (12, 138)),
    (256, 24): ((62, 121), (16, 180)),
    (256, 12): ((67, 128), (20, 183)),
    (256, 6): ((74, 134), (26, 187)),
    (384, 10): ((161, 288), (52, 416)),
    (384, 6): ((172, 299), (62, 422)),
}
# Pixels: (context, target) of the images of V-JEPA 2.1, likewise, at 36 on a device.
IMAGE_BUDGETS = {256: (45, 132), 384: (110, 297)}


def masks(size, *, clips):
    """The two released patterns, with token budgets for `size` pixels.

    clips: on a device in the released recipe, which decides how many tokens its sampler
    keeps. Here the budgets hold for any layout.
    """
    patterns = {
        "short": {"blocks": 8, "spatial_scale": (0.15, 0.15)},
        "long": {"blocks": 2, "spatial_scale": (0.7, 0.7)},
    }
    for name, cells in zip(patterns, BUDGETS[size, clips], strict=True):
        patterns[name] |= dict(zip(("context", "target"), cells, strict=True))
    return {"truncation": "prefix", "patterns": patterns}


def v1(letter, *, size=224):
    """V-JEPA (arXiv 2404.08471): sincos positions, schedules stretched by 1.25."""
    batch = 3072 if size == 224 else 2400
    config = published(
        letter,
        steps=90_000,
        batch=batch,
        mask_tokens=2,
        positions="sincos",
        rescale=False,
    )
    # The released V1 predictor takes the encoder's number of heads.
    config["predictor"]["heads"] = 16
    config["data"]["size"] = size
    config["data"]["fps"] = 7.5  # every fourth frame of 30 a second
    config["masks"] = masks(size, clips=24 if size == 224 else 10)
    config["objective"]["mask_token_per_pattern"] = True
    stretch = {"stretch": 1.25}
    config["optimizer"] = {
        "lr": {
            "kind": "warmup_cosine",
            "start": 2e-4,
            "peak": 6.25e-4,
            "final": 1e-6,
            "warmup_steps": 12_000,
            **stretch,
        },
        "decay": {"kind": "cosine", "start": 0.04, "final": 0.4, **stretch},
        "momentum": {"kind": "linear", "start": 0.998, "final": 1.0, **stretch},
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip_norm": 10.0,
        "clip_steps": 12_300,  # "epoch > warmup" of epochs that count from 0: 41 x 300
    }
    return config


def v2(letter):
    """V-JEPA 2 (arXiv 2506.09985), primary phase: warmup, then a constant rate."""
    steps = 240_000 if letter in "gG" else 90_000
    config = published(
        letter, steps=steps, batch=3072, mask_tokens=10, positions="tiled", rescale=True
    )
    config["masks"] = masks(256, clips=24)
    config["objective"]["mask_token_per_pattern"] = False
    config["optimizer"] = {
        "lr": {
            "kind": "warmup_constant",
            "start": 1e-4,
            "peak": 5.25e-4,
            "warmup_steps": 12_000,
        },
        "decay": {"kind": "constant", "value": 0.04},
        "momentum": {"kind": "constant", "value": 0.99925},
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip_norm": 0.0,
        "clip_steps": 0,
    }
    return config


def cooldown(letter, *, size=256):
    """V-JEPA 2, last phase: 64 frames, from a primary checkpoint with its moments."""
    config = v2(letter)
    config["steps"] = 12_000
    config["data"] |= {"frames": 64, "size": size}
    config["masks"] = masks(size, clips=6 if letter in "gG" else 12)
    config["optimizer"]["lr"] = {
        "kind": "linear",
        "start": 5.25e-4,
        "final": 1e-6,
        "stretch": 1.25,
    }
    return config


def dense_objective():
    """Of V-JEPA 2.1: shares of the run, weights of the loss at visible tokens."""
    return {
        "mask_token_per_pattern": False,
        "image_share": 0.5,
        "context": {
            "weight": 0.5,
            "image_weight": 0.7,
            "start": 1 / 9,  # 15,000 of 135,000 steps
            "full": 2 / 9,
            "distance": True,
        },
    }


def v2_1(letter):
    """V-JEPA 2.1 (arXiv 2603.14482), primary phase, at the paper's rates and batch."""
    config = v2(letter)
    config |= {"method": "jepa.dense", "steps": 135_000, "batch": 128}
    config["encoder"] |= {"positions": "paired", "levels": 4, "rope_grid": 16}
    distilled = letter in "BL"
    config["predictor"] |= {
        "depth": 12 if distilled else 24,
        "mask_tokens": 8,
        "levels": 1 if distilled else 4,
        "out": 1664 if distilled else 0,  # 0: the width of the encoder
    }
    config["masks"]["image_patterns"] = image_masks(256)
    config["objective"] = dense_objective()
    return config


def image_masks(size):
    """The pattern of the images of V-JEPA 2.1, with token budgets for `size` pixels."""
    budgets = dict(zip(("context", "target"), IMAGE_BUDGETS[size], strict=True))
    return {"short": {"blocks": 10, "spatial_scale": (0.15, 0.15), **budgets}}


def cooldown21(letter):
    """V-JEPA 2.1, last phase: 64 frames of 384 pixels, from the end of the first phase.

    The paper's images have 512 pixels; here they are first frames of clips, of 384. Public
    training code has the weights at visible tokens, full from the first step and equal at
    all distances, and a rate from 6e-4, that of its first phase; here it goes on from the
    paper's 5.25e-4.
    """
    last, config = cooldown(letter, size=384), v2_1(letter)
    config["steps"], config["data"] = last["steps"], last["data"]
    config["optimizer"] = last["optimizer"]
    config["masks"] = last["masks"] | {"image_patterns": image_masks(384)}
    config["objective"]["context"] |= {"start": 0.0, "full": 0.0, "distance": False}
    return config
