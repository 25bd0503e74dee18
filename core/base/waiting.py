"""How a wait for data ends other than by data."""


class Stopped(Exception):
    """A stop was requested while a source waited; its cursor is as before the wait."""


class SourceFailed(ValueError):
    """A source gives no more batches; the message is one sentence for the user.

    Its cursor is as after the last batch, so that a run can be saved and go on later.
    """


def never() -> bool:
    """For `stopping` of sources where nobody requests a stop: False."""
    return False
