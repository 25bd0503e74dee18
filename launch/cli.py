"""What every command shares: flags, one sentence for a user's error, exit codes."""

import os
import sys
import traceback

from absl import flags, logging

from core.base.text import one_line
from launch import config, memory

DONE, USER_ERROR, INTERNAL, PREEMPTED = 0, 1, 2, 75


def define_config(
    meaning="Config file and preset, such as configs/jepa.py:tiny",
) -> flags.FlagHolder:
    """The flag --config; its value is the ConfigDict with all overrides."""
    return flags.DEFINE_string("config", None, meaning)


def parse(argv) -> None:
    """Parse absl flags and config overrides; what is wrong becomes a ValueError."""
    known = flags.FLAGS
    try:
        rest = known(argv, known_only=True)[1:]
    except flags.IllegalFlagValueError as error:
        flag = one_line(error).removeprefix("flag ").split(": ")[0]
        raise ValueError(f"{flag} is no value for this flag; see --help") from error
    except flags.Error as error:
        raise ValueError(one_line(error)) from error
    overrides = [a for a in rest if "config" in known and a.startswith("--config.")]
    for argument in rest:
        name = argument.lstrip("-").split("=")[0]
        if argument in overrides and "=" not in argument:
            raise ValueError(f"{argument} has no value; write {argument}=value")
        if not argument.startswith("-"):
            raise ValueError(
                f"{argument!r} is no flag; all that is given is --flag=value"
            )
        if argument not in overrides:
            raise ValueError(
                f"there is no flag --{name}{config.near(name, list(known))}"
            )
    if "config" in known and known["config"].value is not None:
        known["config"].value = config.load(known["config"].value, overrides)
    elif overrides:
        raise ValueError(f"{overrides[0]} needs --config=FILE[:preset] beside it")


def usage() -> str:
    """What --help prints: the command's own sentence, and its flags."""
    main = sys.modules["__main__"]
    lines = [main.__doc__, f"python -m {main.__spec__.name} --flag=value ...", ""]
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        default = (
            "" if flag.default in (None, "", []) else f" (default: {flag.default})"
        )
        lines.append(f"  --{flag.name}: {flag.help}{default}")
    if "config" in flags.FLAGS:
        lines.append("  --config.section.field=VALUE: Any field of the config")
    return "\n".join(lines)


def run(main) -> None:
    """Parse flags, run `main()`, leave with the documented exit code.

    0 done, 1 user error (one sentence on stderr), 2 internal error, 75 preempted and saved
    (what `main` returns then). An end by Ctrl-C that saved nothing is 130, as in a shell.
    """
    logging.set_verbosity(logging.WARNING)
    try:
        if {"-h", "-help", "--help"} & set(sys.argv[1:]):
            print(usage())
            sys.exit(DONE)
        parse(sys.argv)
        memory.keep()
        code = main() or DONE
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001, the one place that ends the process
        code = code_of(error)
    sys.stdout.flush()
    sys.exit(code)


def code_of(error: Exception) -> int:
    """Print what a person needs to know of an error; the exit code it means."""
    full = "RESOURCE_EXHAUSTED" in str(error)
    if isinstance(error, ValueError | OSError) or full:
        cure = "; lower batch, or split more by mesh" if full else ""
        text = one_line(error) or type(error).__name__
        print(f"error: {text}{cure}", file=sys.stderr, flush=True)
        if os.environ.get("REVERIE_TRACE"):
            traceback.print_exception(error)
        return USER_ERROR
    traceback.print_exception(error)
    return INTERNAL
