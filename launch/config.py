"""Loads `--config=FILE[:preset[@machine]]` and applies `--config.section.field=value`."""

import ast
import copy
import difflib
import importlib.util
import pathlib
import re

from ml_collections import ConfigDict

from core.base.places import expand_home

OVERRIDE = re.compile(r"--config\.([\w.]+)=(.*)", re.DOTALL)
KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def load(place: str, overrides=()) -> ConfigDict:
    """The locked config of FILE[:preset[@machine]].

    overrides: "--config.section.field=value" each. Raises ValueError on unknown files,
    presets, machines and fields, and on values of the wrong type.
    """
    name, *size = place.split(":", 1)
    name = str(expand_home(name))
    size, _, machine = "".join(size).partition("@")
    config = preset(name, size, machine)
    hints = getattr(load_module(pathlib.Path(name)), "HINTS", {})
    for text in overrides:
        override(config, text, hints)
    return config.lock()


def preset(name: str, size: str, machine: str) -> ConfigDict:
    """`get_config(size)` of a file, with the fields of its MACHINES[size][machine]."""
    path = pathlib.Path(name)
    if not path.is_file():
        files = [str(p) for p in path.parent.glob("*.py") if p.stem != "__init__"]
        raise ValueError(f"there is no config file {name}{near(name, files)}")
    module = load_module(path)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config file {name} has no get_config(size)")
    config = ConfigDict(module.get_config(*([size] if size else [])))
    known = getattr(module, "MACHINES", {}).get(size, {})
    if machine and machine not in known:
        raise ValueError(
            f"{size or name} has no settings for machine {machine!r}; it has some for "
            f"{', '.join(known) or 'none'}; set --topology and the fields of mesh instead"
        )
    return changed(config, known[machine] | {"machine": machine} if machine else {})


def load_module(path: pathlib.Path):
    """A config file as a module; raises ValueError if it cannot be loaded."""
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise ValueError(f"config file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        kind = type(error).__name__
        raise ValueError(
            f"config file {path} cannot be loaded: {kind}: {error}"
        ) from error
    return module


def presets_with_machines(folder: str) -> list[str]:
    """ "FILE:preset@machine" of all presets in a folder that name machines."""
    places = []
    for path in sorted(pathlib.Path(folder).glob("*.py")):
        module = load_module(path)
        # Families of presets that another file offers are listed there.
        named = hasattr(module, "get_config")
        machines = getattr(module, "MACHINES", {}) if named else {}
        places += [
            f"{path}:{size}@{name}" for size in machines for name in machines[size]
        ]
    return places


def changed(config: ConfigDict, choice: dict) -> ConfigDict:
    """A locked copy with changes {"section.field": value}; strings are parsed as flags."""
    config = copy.deepcopy(config).unlock()
    for field, value in choice.items():
        override(config, f"--config.{field}={value}")
    return config.lock()


def variants(config: ConfigDict, choices: list[dict]) -> list[tuple[dict, ConfigDict]]:
    """(choice, changed config) of each choice."""
    return [(choice, changed(config, choice)) for choice in choices]


def override(config: ConfigDict, text: str, hints=None) -> None:
    """Set one field as `--config.section.field=value` says, keeping its type.

    hints: what to say of a section that the preset does not have.
    """
    match = OVERRIDE.fullmatch(text)
    if not match:
        raise ValueError(f"{text} has no value; expected --config.section.field=value")
    path, value = match.groups()
    section, known = config, []
    for name in path.split("."):
        if not isinstance(section, ConfigDict) or name not in section:
            hint = (hints or {}).get(name) if section is config else None
            hint = f"; {hint}" if hint else near(path, fields(config.to_dict()))
            raise ValueError(f"config has no field {path}{hint}")
        known.append(section)
        section = section[name]
    known[-1][name] = parse(path, value, old=section)


def parse(path: str, text: str, *, old):
    """Parse `text` to the type of `old`; raises ValueError naming the field `path`."""
    if isinstance(old, ConfigDict):
        raise ValueError(
            f"config.{path} is a section; set one of its fields, {', '.join(sorted(old))}"
        )
    if isinstance(old, str):
        return text
    value = literal(text)
    if isinstance(old, tuple) and all(isinstance(x, str) for x in old):
        return parse_names(path, text, value, old=old)
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


def parse_names(path: str, text: str, value, *, old) -> tuple[str, ...]:
    """Any number of names, with commas between or as a Python tuple."""
    if not isinstance(value, list | tuple):
        return tuple(text.split(",")) if text else ()
    if not all(isinstance(x, str) for x in value):
        such = f", such as {','.join(old)}" if any(old) else ""
        raise ValueError(
            f"config.{path} is {text!r}; use names with commas between{such}"
        )
    return tuple(value)


def literal(text: str):
    """The Python value of a literal, "true" and "false" in any case; else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def fields(config: dict, prefix: str = "") -> list[str]:
    """Names of all sections and fields, as "section.field"."""
    names = []
    for key, value in config.items():
        names.append(prefix + key)
        if isinstance(value, dict):
            names += fields(value, f"{prefix}{key}.")
    return names


def near(name: str, known) -> str:
    """A hint at the nearest known name: by the whole name, else by its last part."""
    close = difflib.get_close_matches(name, known, 1)
    if not close:
        ends = {path.rsplit(".", 1)[-1] for path in known}
        end = difflib.get_close_matches(name.rsplit(".", 1)[-1], ends, 1)
        close = [path for path in known if path.rsplit(".", 1)[-1] in end]
    return f"; did you mean {' or '.join(close)}?" if close else ""
