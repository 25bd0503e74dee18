"""config.json and video_preprocessor_config.json of a Hugging Face V-JEPA 2 folder."""

import math

from jepa.nets.model import MEAN, STD, Encoder, Predictor

CONFIG = "config.json"
PREPROCESSOR = "video_preprocessor_config.json"
CHANNELS = 3

# Defaults of transformers for fields that config.json leaves out.
DEFAULTS = {
    "attention_dropout": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "crop_size": 256,
    "drop_path_rate": 0.0,
    "frames_per_clip": 64,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "in_chans": CHANNELS,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-6,
    "mlp_ratio": 4.0,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_pooler_layers": 3,
    "patch_size": 16,
    "pred_hidden_size": 384,
    "pred_mlp_ratio": 4.0,
    "pred_num_attention_heads": 12,
    "pred_num_hidden_layers": 12,
    "pred_num_mask_tokens": 10,
    "pred_zero_init_mask_tokens": True,
    "qkv_bias": True,
    "tubelet_size": 2,
}


def read(config: dict) -> tuple[dict, dict]:
    """Encoder and Predictor fields of a config.json.

    Raises ValueError, naming the field, for models that we cannot compute.
    """
    kind = config.get("model_type")
    if kind != "vjepa2":
        raise ValueError(f"{CONFIG}: model_type is {kind!r}; only 'vjepa2' is read")
    c = {key: config.get(key, default) for key, default in DEFAULTS.items()}
    check_fields(c)
    common = {
        "eps": c["layer_norm_eps"],
        "qkv_bias": c["qkv_bias"],
        "positions": "tiled",
    }
    patch = (c["tubelet_size"], c["patch_size"], c["patch_size"])
    encoder = {**sizes(c, ""), **common, "patch": patch}
    out = {"out": c["hidden_size"], "mask_tokens": c["pred_num_mask_tokens"]}
    return encoder, {**sizes(c, "pred_"), **common, **out}


def check_fields(c: dict):
    """Raise ValueError for the first field with a wrong type or an unsupported value."""
    if isinstance(c["patch_size"], list):
        raise ValueError(
            f"{CONFIG}: patch_size is {c['patch_size']}; transformers itself cannot "
            "run a pair, so only one integer is read"
        )
    for key, default in DEFAULTS.items():
        kinds = (float, int) if isinstance(default, float) else (type(default),)
        if type(c[key]) not in kinds:
            raise ValueError(f"{CONFIG}: {key} is {c[key]!r}, not {kinds[0].__name__}")
    for key in ("hidden_act", "in_chans"):
        if c[key] != DEFAULTS[key]:
            raise ValueError(
                f"{CONFIG}: {key} is {c[key]!r}; only {DEFAULTS[key]!r} is read"
            )


def sizes(c: dict, prefix: str) -> dict:
    """Width, depth, heads, hidden width of the encoder or ("pred_") the predictor."""
    width = c[f"{prefix}hidden_size"]
    return {
        "width": width,
        "depth": c[f"{prefix}num_hidden_layers"],
        "heads": c[f"{prefix}num_attention_heads"],
        "hidden": int(width * c[f"{prefix}mlp_ratio"]),
    }


def make(
    encoder: Encoder, predictor: Predictor, *, crop_size: int, frames: int
) -> dict:
    """config.json of a model, for clips of `frames` of crop_size x crop_size pixels.

    Raises ValueError, naming the field, for models that the format cannot express.
    """
    check_expressible(encoder, predictor)
    config = {
        **DEFAULTS,
        "architectures": ["VJEPA2Model"],
        "dtype": "float32",
        "model_type": "vjepa2",
        "crop_size": crop_size,
        "frames_per_clip": frames,
        "tubelet_size": encoder.patch[0],
        "patch_size": encoder.patch[1],
        "layer_norm_eps": encoder.eps,
        "qkv_bias": encoder.qkv_bias,
        "pred_num_mask_tokens": predictor.mask_tokens,
    }
    for prefix, module in (("", encoder), ("pred_", predictor)):
        config |= {
            f"{prefix}hidden_size": module.width,
            f"{prefix}num_hidden_layers": module.depth,
            f"{prefix}num_attention_heads": module.heads,
            f"{prefix}mlp_ratio": ratio(module.width, module.hidden),
        }
    return dict(sorted(config.items()))


def check_expressible(encoder: Encoder, predictor: Predictor):
    """Raise ValueError for a model from which transformers would compute other outputs."""
    for kind, module in (("encoder", encoder), ("predictor", predictor)):
        if module.positions != "tiled":
            raise ValueError(
                f"{kind}.positions is {module.positions!r}; transformers' vjepa2 "
                "has 'tiled' RoPE alone and would compute other features; "
                "stablehlo and safetensors can hold this model"
            )
    _, rows, cols = encoder.patch
    if rows != cols:
        raise ValueError(
            f"encoder.patch is {rows}x{cols}; the Hugging Face format has one "
            "patch_size for both sides and cannot express this"
        )
    for name in ("eps", "qkv_bias"):
        ours, theirs = getattr(encoder, name), getattr(predictor, name)
        if ours != theirs:
            raise ValueError(
                f"encoder.{name} is {ours}, predictor.{name} is {theirs}; the Hugging "
                "Face format has one value for both"
            )
    if predictor.out != encoder.width:
        raise ValueError(
            f"predictor.out is {predictor.out}, encoder.width is {encoder.width}; the "
            "Hugging Face format wants them equal"
        )


def ratio(width: int, hidden: int) -> float:
    """The mlp_ratio with int(width * ratio) == hidden: 48/11 for width 1408, hidden 6144."""
    exact = hidden / width
    return exact if int(width * exact) == hidden else math.nextafter(exact, math.inf)


def preprocessor(crop_size: int) -> dict:
    """video_preprocessor_config.json: short side, center crop, standardization."""
    return {
        "crop_size": {"height": crop_size, "width": crop_size},
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [float(str(x)) for x in MEAN],
        "image_std": [float(str(x)) for x in STD],
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "return_metadata": False,
        "size": {"shortest_edge": int(crop_size * 256 / 224)},
        "video_processor_type": "VJEPA2VideoProcessor",
    }
