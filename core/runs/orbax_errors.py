"""What Orbax prints of errors that it also raises, silenced; the first cause in words."""

import contextlib
import logging
import os
import re
import sys
import warnings

LOOP_CLOSED = "Event loop is closed"


@contextlib.contextmanager
def quiet_orbax():
    """Silence what Orbax prints of an error that it also raises; may be nested.

    It logs the error from its threads, leaves coroutines that were never awaited and
    callbacks of an event loop that is closed. All hooks and filters are restored.
    """

    def not_orbax(record):
        return "orbax" not in record.pathname and record.name != "asyncio"

    def report(found):
        code = getattr(found.object, "cr_code", None)
        from_orbax = code is not None and "orbax" in code.co_filename
        if not from_orbax and str(found.exc_value) != LOOP_CLOSED:
            hook(found)

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio", None)]
    hook = sys.unraisablehook
    for logger in loggers:
        logger.addFilter(not_orbax)
    sys.unraisablehook = report
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited")
            yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(not_orbax)


def reason(error: BaseException) -> str:
    """The operating system's text for the first cause of an error, else its own text."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    chain = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    for link in reversed(chain):
        code = re.search(r"os_error_code='(\d+)'", str(link))
        if code or getattr(link, "errno", None):
            return os.strerror(int(code[1]) if code else link.errno).lower()
    text = " ".join(str(chain[-1]).split())
    return f"{type(chain[-1]).__name__}: {text}"[:120]
