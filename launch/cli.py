"""Shared by all commands: flags, error messages, exit codes."""

import os
import sys
import threading
import traceback

from absl import flags, logging

from core.base.processes import allow_open_files
from core.base.text import one_line
from launch import config, memory

flags.disclaim_key_flags()  # those that are defined here belong to the command's module

LEAVE_S, LEAVE_TOGETHER_S = 5.0, 180.0  # until a process that should end is ended
DONE, USER_ERROR, INTERNAL, PREEMPTED = 0, 1, 2, 75
PASSED = "passed_flags"


def define_config(
    meaning="Config file and preset, such as configs/jepa.py:tiny",
) -> flags.FlagHolder:
    """Define --config; after `parse` its value is the ConfigDict with all overrides."""
    return flags.DEFINE_string("config", None, meaning)


def open_state(workdir, step, wait, weights, config_flag, out):
    """What --workdir and --step, or --weights and --config name (core/runs/restore.py).

    Takes the flags themselves; out: folder of results, by default that of the run. Raises
    ValueError where flags are missing or in excess.
    """
    from core.base.places import local_folder
    from core.runs import restore

    if bool(workdir.value) == bool(weights.value):
        raise ValueError(
            "--workdir=DIR is needed, the folder of a run, or --weights=PATH"
            + ("; not both" if workdir.value else "")
        )
    if weights.value:
        if config_flag.value is None or not out:
            raise ValueError(
                "--weights needs --config=FILE[:preset], whose networks it belongs to, "
                "and --out=DIR"
            )
        if step.value is not None:
            raise ValueError("--step belongs to --workdir; name the weights themselves")
        return restore.open_weights(config_flag.value, weights.value, out)
    if config_flag.value is not None:
        raise ValueError("--config belongs to --weights; a run has its own config")
    opened = restore.open_run(workdir.value, step.value, wait_s=wait.value)
    return opened._replace(folder=local_folder(out, what="--out")) if out else opened


def define_passed_flags() -> flags.FlagHolder:
    """Define that what follows `--` is passed on; `parse` makes it the value."""
    return flags.DEFINE_multi_string(PASSED, [], "Flags to pass on")


def parse(argv, known=flags.FLAGS) -> None:
    """Parse absl flags and config overrides; raises ValueError on any mistake.

    known: the flags that exist.
    """
    if "--" in argv and PASSED in known:
        at = argv.index("--")
        argv, known[PASSED].value = argv[:at], list(argv[at + 1 :])
    try:
        rest = known(argv, known_only=True)[1:]
    except flags.IllegalFlagValueError as error:
        flag = one_line(error).removeprefix("flag ").split(": ")[0]
        raise ValueError(f"{flag} is not a valid value; see --help") from error
    except flags.Error as error:
        raise ValueError(one_line(error)) from error
    overrides = [a for a in rest if "config" in known and a.startswith("--config.")]
    for argument in rest:
        name = argument.lstrip("-").split("=")[0]
        if argument in overrides and "=" not in argument:
            raise ValueError(f"{argument} has no value; write {argument}=value")
        if not argument.startswith("-"):
            raise ValueError(f"unexpected argument {argument!r}; use --flag=value")
        if argument not in overrides:
            raise ValueError(
                f"there is no flag --{name}{config.near(name, list(known))}"
            )
    if "config" in known and known["config"].value is not None:
        known["config"].value = config.load(known["config"].value, overrides)
    elif overrides:
        raise ValueError(f"{overrides[0]} needs --config=FILE[:preset] beside it")


def usage() -> str:
    """The text of --help: what the command does, and its flags."""
    main = sys.modules["__main__"]
    lines = [main.__doc__, f"python -m {main.__spec__.name} --flag=value ...", ""]
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        value = flag.default
        value = ",".join(value) if isinstance(value, list) else value
        default = (
            "" if value in (None, "") or value is False else f" (default: {value})"
        )
        name = "-- FLAGS" if flag.name == PASSED else f"--{flag.name}"
        text = flag.help.split(";\n")[0]  # absl adds how lists are written
        lines.append(f"  {name}: {text}{default}")
    if "config" in flags.FLAGS:
        lines.append("  --config.section.field=VALUE: Override any field of the config")
    return "\n".join(lines)


def run(main) -> None:
    """Parse flags, call `main`, exit with a documented code.

    0: done. 1: user error, one sentence on stderr. 2: internal error, with a traceback.
    75: preempted after saving; `main` returns it. 76: a step hung, or a process of the job
    is gone. 130: Ctrl-C, nothing saved, as in a shell.
    """
    logging.set_verbosity(logging.WARNING)
    allow_open_files()
    try:
        if {"-h", "-help", "--help"} & set(sys.argv[1:]):
            print(usage())
            sys.exit(DONE)
        parse(sys.argv)
        memory.restart_to_keep_memory()
        code = main() or DONE
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001, turned into an exit code
        code = report_error(error)
    leave(code)


def leave(code: int) -> None:
    """Exit; threads that hang, such as in a read, do not keep the process alive.

    Where several processes end together, jax.distributed bounds their wait.
    """
    try:
        sys.stdout.flush()
    except OSError:  # the terminal is gone: Python would flush again, and fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    seconds = LEAVE_S if alone() else LEAVE_TOGETHER_S
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
    sys.exit(code)


def alone() -> bool:
    """Whether this is the only process of its job; does not import JAX."""
    return (
        "jax" not in sys.modules or not sys.modules["jax"].distributed.is_initialized()
    )


def is_lost_peer(error: Exception) -> bool:
    """`core.parallel.peers.is_lost_peer`, of a process that has imported JAX."""
    from core.parallel import peers

    return peers.is_lost_peer(error)


def report_error(error: Exception) -> int:
    """Print an error, a user's mistake as one sentence; returns the exit code."""
    if not alone() and is_lost_peer(error):
        from core.parallel.peers import EXIT, GONE

        print(f"error: {GONE} ({one_line(error)[:120]})", file=sys.stderr, flush=True)
        os._exit(EXIT)  # there is nobody to agree with on an end
    out_of_memory = "RESOURCE_EXHAUSTED" in str(error)
    if isinstance(error, ValueError | OSError) or out_of_memory:
        cure = "; lower batch or split more axes in mesh" if out_of_memory else ""
        text = one_line(error) or type(error).__name__
        print(f"error: {text}{cure}", file=sys.stderr, flush=True)
        if os.environ.get("REVERIE_TRACE"):
            traceback.print_exception(error)
        return USER_ERROR
    traceback.print_exception(error)
    return INTERNAL
