"""From a config to a method: field checks, "auto" values, errors that name the field."""

import importlib

import jax

from core.method import Method
from core.nn.kernels import KERNELS
from core.section import Section

# Smallest allowed value of each whole number; 0 save_steps saves at the end alone.
NUMBERS = {
    "steps": 1,
    "batch": 1,
    "accumulate": 1,
    "seed": 0,
    "log_steps": 1,
    "save_steps": 0,
    "keep_checkpoints": 1,
    "max_bad_steps": 1,
}
TEXTS = ("method", "init_from", "init_parts", "machine", "offload")
# Sections of whole numbers by name: -1 is "never" in the one, "what is left" in the other.
SECTIONS = {"eval_steps": -1, "mesh": -1}
# Fields of the section `guard`: smallest value; 0 switches each off.
GUARD = {"hang_s": 0.0, "rollback": 0, "norm": 0.0}
# Fields whose "auto" depends on the platform, in any section.
KNOWN = {"dtype": ("float32", "bfloat16"), "attention": tuple(KERNELS)}
AUTO = {
    "dtype": {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"},
    "attention": {"cpu": "chunked", "gpu": "cudnn", "tpu": "splash"},
}


def check_config(config: dict) -> None:
    """Raise ValueError for the first field that every run needs and that is wrong."""
    for field in (*TEXTS, *NUMBERS, *SECTIONS):
        if field not in config:
            raise ValueError(f"config has no field {field!r}, which every run needs")
    for field in TEXTS:
        if not isinstance(config[field], str):
            raise ValueError(f"{field} is {config[field]!r}; expected a string")
    for field, least in NUMBERS.items():
        check_number(field, config[field], least)
    for section, least in SECTIONS.items():
        if not isinstance(config[section], dict):
            raise ValueError(
                f"{section} is {config[section]!r}; expected a section of whole numbers"
            )
        for name, value in config[section].items():
            check_number(f"{section}.{name}", value, least)
    check_guard(config.get("guard"))


def check_guard(guard) -> None:
    """Raise ValueError unless the section `guard` has the fields of GUARD, all sensible."""
    if not isinstance(guard, dict) or set(guard) != set(GUARD):
        raise ValueError(
            f"guard is {guard!r}; expected a section with {', '.join(GUARD)}"
        )
    check_number("guard.rollback", guard["rollback"], 0)
    for field in ("hang_s", "norm"):
        if not (
            isinstance(guard[field], int | float) and 0 <= guard[field] < float("inf")
        ):
            raise ValueError(
                f"guard.{field} is {guard[field]!r}; use a number from 0 up"
            )


def check_number(field: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{field} is {value!r}; use a whole number from {least} up")


def check_section_names(section: str, given, known) -> None:
    """Raise ValueError unless a section has exactly the `known` fields."""
    if set(given) != set(known):
        raise ValueError(
            f"{section} names {', '.join(sorted(given))}; it must name just "
            f"{', '.join(sorted(known))}"
        )


def resolve_auto(config: dict, platform: str, prefix: str = "") -> dict:
    """A copy of the config in which each "auto" is the platform's value.

    Raises ValueError for a value that is not among KNOWN.
    """
    found = {}
    for name, value in config.items():
        if isinstance(value, dict):
            value = resolve_auto(value, platform, f"{prefix}{name}.")
        elif name in KNOWN:
            value = AUTO[name][platform] if value == "auto" else value
            if value not in KNOWN[name]:
                *some, last = map(repr, ("auto", *KNOWN[name]))
                known = f"{', '.join(some)} or {last}"
                raise ValueError(f"{prefix}{name} is {value!r}; use {known}")
        found[name] = value
    return found


def load_method(config, platform: str | None = None) -> Method:
    """The method of a checked config: `make` of the module that `config.method` names.

    platform: that "auto" values are for, "cpu", "gpu" or "tpu"; the default backend's by
    default. Raises ValueError for a module that is not there and for a wrong field.
    """
    name = current_name(config.method)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"method {name!r} is no module here: {error}") from None
    if not hasattr(module, "make"):
        raise ValueError(f"method {name!r} has no make(config)")
    platform = platform or jax.default_backend()
    fields = resolve_auto(config.to_dict(), platform)
    return module.make(Section(fields))


def current_name(method: str) -> str:
    """Today's name of a method that an older config names.

    The package of a method lists modules that were renamed in `RENAMED`, {old: new}.
    """
    package, _, module = method.rpartition(".")
    try:
        renamed = getattr(importlib.import_module(package), "RENAMED", {})
    except (ModuleNotFoundError, ValueError):
        return method
    return f"{package}.{renamed.get(module, module)}"
