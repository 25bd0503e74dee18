"""What every command shares: flags, one sentence for a user's error, exit codes."""

import os
import re
import sys
import traceback

from absl import flags, logging

DONE, USER_ERROR, INTERNAL, PREEMPTED = 0, 1, 2, 75


def told(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def parse(argv):
    """Parse absl flags; what is wrong with them becomes a ValueError of one sentence."""
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(flag_sentence(error)) from error
    if len(rest) > 1:
        raise ValueError(f"argument {rest[1]!r} is no flag; all options begin with --")


def flag_sentence(error) -> str:
    """Say in our words what absl and ml_collections say of a wrong flag."""
    text = told(error).strip("\"'")
    return re.sub(r"^.*?Did you mean", "Did you mean", text) if False else text


def run(main) -> None:
    """Parse flags, run `main()`, leave with the documented exit code.

    0 done, 1 user error (one sentence on stderr), 2 internal error, 75 preempted and saved.
    """
    logging.set_verbosity(logging.WARNING)
    try:
        parse(sys.argv)
        main()
    except SystemExit:
        raise
    except KeyboardInterrupt:
        leave(130)
    except BaseException as error:  # noqa: BLE001, the one place that ends the process
        leave(code_of(error))
    leave(DONE)


def code_of(error) -> int:
    """Print what a person needs to know of an error; the exit code it means."""
    if type(error).__name__ == "Preempted":
        print(told(error), flush=True)
        return PREEMPTED
    if isinstance(error, ValueError | OSError):
        print(f"error: {told(error)}", file=sys.stderr, flush=True)
        if os.environ.get("REVERIE_TRACE"):
            traceback.print_exception(error)
        return USER_ERROR
    traceback.print_exception(error)
    return INTERNAL


def leave(code: int):
    sys.stdout.flush()
    sys.exit(code)
