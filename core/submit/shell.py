"""Shell scripts of jobs: quoted words, one flag a line."""

import shlex


def folded(words, indent: str = "  ") -> str:
    """A command with every flag on a line of its own; words are quoted where needed."""
    text, first = "", True
    for word in words:
        if word.startswith("--"):
            text += f" \\\n{indent}{shlex.quote(word)}"
        else:
            text += ("" if first else " ") + shlex.quote(word)
        first = False
    return text


def exports(env) -> list[str]:
    """Lines that set environment variables."""
    return [f"export {name}={shlex.quote(value)}" for name, value in env]
