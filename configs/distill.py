"""Distillation of V-JEPA 2.1 (arXiv 2603.14482): presets of configs/jepa.py.

tiny_distill: two CPU cores, from a run of tiny_dense:
python -m launch.train --config=configs/jepa.py:tiny_distill --config.init_from=runs/tiny_dense
--config.init_parts=teacher --workdir=runs/tiny_distill

distill_b, distill_l: ViT-B and ViT-L from the frozen ViT-G, whose last level is predicted, with
the networks of the public checkpoints. There is no public training code: rates, steps and
batch are those of the first phase.
"""

from configs.run import laid


def makers(v2_1, tiny_dense) -> dict:
    """Preset name -> function that returns its fields.

    v2_1: letter -> fields of V-JEPA 2.1 of that size; tiny_dense: () -> those for two cores.
    """
    return {
        "tiny_distill": lambda: tiny(tiny_dense()),
        "distill_b": lambda: distilled(v2_1("B"), "G"),
        "distill_l": lambda: distilled(v2_1("L"), "G"),
    }


MACHINES = {
    "distill_b": {"h200:1x1": laid(1, "dots", data=1, fsdp=1)},
    "distill_l": {
        "h200:1x8": laid(1, "dots", data=1, fsdp=8),
        "v5e:4x4": laid(1, "dots", data=1, fsdp=16),
    },
}


def distilled(config: dict, size: str) -> dict:
    """A student of V-JEPA 2.1 with the last of its teacher's four levels as target."""
    config |= {
        "method": "jepa.distill",
        # learns: beside the student, by the loss of V-JEPA 2.1, in place of frozen weights.
        "teacher": {"size": size, "levels": 4, "learns": False},
        "random_teacher": False,  # whether an empty init_from is meant
    }
    config["predictor"] |= {"levels": 1, "out": 0}  # 0: the width of the teacher
    return config


def tiny(config: dict) -> dict:
    """Half as wide as the encoder of `tiny_dense`, its teacher."""
    config = distilled(config, "tiny")
    config |= {"steps": 2000}
    config["encoder"] |= {"size": "mini"}
    return config
