"""Nested dicts, lists and scalars as YAML 1.2, with quotes wherever they might matter."""

import json
import re

PLAIN = re.compile(r"[A-Za-z][\w./-]*")
# What YAML 1.1 or 1.2 reads as something else than a string.
WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def dump(value, indent: str = "") -> str:
    """The lines of a value, each with `indent` before it."""
    if isinstance(value, dict) and value:
        return "".join(pair(scalar(k), v, indent) for k, v in value.items())
    if isinstance(value, list) and value:
        return "".join(item(v, indent) for v in value)
    return f"{indent}{scalar(value)}\n"


def pair(key: str, value, indent: str) -> str:
    if isinstance(value, dict | list) and value:
        deeper = indent + ("  " if isinstance(value, dict) else "")
        return f"{indent}{key}:\n{dump(value, deeper)}"
    if isinstance(value, str) and value.endswith("\n"):
        lines = "".join(
            f"{indent}  {line}".rstrip() + "\n" for line in value.splitlines()
        )
        return f"{indent}{key}: |\n{lines}"
    return f"{indent}{key}: {scalar(value)}\n"


def item(value, indent: str) -> str:
    return f"{indent}- " + dump(value, indent + "  ").removeprefix(indent + "  ")


def scalar(value) -> str:
    """One line; JSON's quoted strings and its empty collections are YAML as well."""
    plain = isinstance(value, str) and PLAIN.fullmatch(value)
    return value if plain and value.lower() not in WORDS else json.dumps(value)
