"""What "auto" in a config means on a platform: "cpu", "gpu" or "tpu"."""

from core.kernels import KERNELS

KNOWN = {"dtype": ("float32", "bfloat16"), "attention": tuple(KERNELS)}
AUTO = {
    "dtype": {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"},
    "attention": {"cpu": "chunked", "gpu": "cudnn", "tpu": "splash"},
}


def settled(config: dict, platform: str, prefix: str = "") -> dict:
    """The config with a value of the platform in place of each "auto".

    Raises ValueError for a value that no platform knows.
    """
    found = {}
    for name, value in config.items():
        if isinstance(value, dict):
            value = settled(value, platform, f"{prefix}{name}.")
        elif name in KNOWN:
            value = AUTO[name][platform] if value == "auto" else value
            if value not in KNOWN[name]:
                *some, last = map(repr, ("auto", *KNOWN[name]))
                known = f"{', '.join(some)} or {last}"
                raise ValueError(f"{prefix}{name} is {value!r}; use {known}")
        found[name] = value
    return found
