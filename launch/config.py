"""`--config=FILE[:preset]` and what overrides it, `--config.section.field=value`."""

import ast
import copy
import difflib
import importlib.util
import pathlib
import re

from ml_collections import ConfigDict

OVERRIDE = re.compile(r"--config\.([\w.]+)=(.*)", re.DOTALL)
KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def load(place: str, overrides=()) -> ConfigDict:
    """The config of a preset, with overrides written as on the command line."""
    name, *size = place.split(":", 1)
    size, _, machine = "".join(size).partition("@")
    config = preset(name, size, machine)
    for text in overrides:
        override(config, text)
    return config.lock()


def preset(name: str, size: str, machine: str) -> ConfigDict:
    """What `get_config` of a file gives for a preset, and its MACHINES for a machine."""
    path = pathlib.Path(name)
    if not path.is_file():
        files = [str(p) for p in path.parent.glob("*.py") if p.stem != "__init__"]
        raise ValueError(f"there is no config file {name}{near(name, files)}")
    module = module_of(path)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config file {name} has no get_config(size)")
    config = ConfigDict(module.get_config(*([size] if size else [])))
    known = getattr(module, "MACHINES", {}).get(size, {})
    if machine and machine not in known:
        raise ValueError(
            f"{size or name} is not laid out for machine {machine!r}, but for "
            f"{', '.join(known) or 'none'}; name --topology and set mesh yourself"
        )
    return varied(config, known[machine] | {"machine": machine} if machine else {})


def module_of(path: pathlib.Path):
    """What a config file defines."""
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise ValueError(f"config file {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything may stand in a user's file
        kind = type(error).__name__
        raise ValueError(
            f"config file {path} cannot be loaded: {kind}: {error}"
        ) from error
    return module


def laid_out(folder: str) -> list[str]:
    """ "FILE:preset@machine" of all presets in a folder that name machines."""
    places = []
    for path in sorted(pathlib.Path(folder).glob("*.py")):
        machines = getattr(module_of(path), "MACHINES", {})
        places += [
            f"{path}:{size}@{name}" for size in machines for name in machines[size]
        ]
    return places


def varied(config: ConfigDict, choice: dict) -> ConfigDict:
    """A copy with other values, {"section.field": value}, texts as on the command line."""
    config = copy.deepcopy(config).unlock()
    for field, value in choice.items():
        override(config, f"--config.{field}={value}")
    return config.lock()


def variants(config: ConfigDict, choices: list[dict]) -> list[tuple[dict, ConfigDict]]:
    """(choice, varied config) of each choice."""
    return [(choice, varied(config, choice)) for choice in choices]


def override(config: ConfigDict, text: str) -> None:
    """Set one field as `--config.section.field=value` says, keeping its type."""
    match = OVERRIDE.fullmatch(text)
    if not match:
        raise ValueError(f"{text} sets nothing; write --config.section.field=value")
    path, value = match.groups()
    section, known = config, []
    for name in path.split("."):
        if not isinstance(section, ConfigDict) or name not in section:
            raise ValueError(
                f"config has no field {path}{near(path, fields(config.to_dict()))}"
            )
        known.append(section)
        section = section[name]
    known[-1][name] = parse(path, value, old=section)


def parse(path: str, text: str, *, old):
    """A value of the type of the old one."""
    if isinstance(old, ConfigDict):
        raise ValueError(
            f"config.{path} is a section; set one of its fields, {', '.join(sorted(old))}"
        )
    if isinstance(old, str):
        return text
    value = literal(text)
    if isinstance(old, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(old):
            raise ValueError(
                f"config.{path} is {text!r}; use {len(old)} values, such as {old}"
            )
        pairs = zip(value, old, strict=True)
        return tuple(parse(path, str(new), old=one) for new, one in pairs)
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if old is not None and type(value) is not type(old):
        kind = KINDS[type(old)]
        raise ValueError(f"config.{path} is {text!r}; use {kind}, such as {old}")
    return value


def literal(text: str):
    """A Python value, or the text itself where it is none; true and false also small."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def fields(config: dict, prefix: str = "") -> list[str]:
    """All fields of nested sections and the sections, as "section.field"."""
    names = []
    for key, value in config.items():
        names.append(prefix + key)
        if isinstance(value, dict):
            names += fields(value, f"{prefix}{key}.")
    return names


def near(name: str, known) -> str:
    """A hint at the nearest of the known names, judged by their last parts if need be."""
    close = difflib.get_close_matches(name, known, 1)
    if not close:
        ends = {path.rsplit(".", 1)[-1] for path in known}
        end = difflib.get_close_matches(name.rsplit(".", 1)[-1], ends, 1)
        close = [path for path in known if path.rsplit(".", 1)[-1] in end]
    return f"; did you mean {' or '.join(close)}?" if close else ""
