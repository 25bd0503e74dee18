"""Notices of the metadata server of Google's machines: host maintenance, preemption.

A TPU VM or GPU VM gets one a minute or more before its host is maintained, and a spot VM when
it is preempted, where nothing else may send SIGTERM to the training. Keys and values are those
of Compute Engine's documentation of VM metadata.
"""

import contextlib
import os
import pathlib
import signal
import threading
import urllib.request

from core.base.waiting import repeating

ADDRESS = "http://{host}/computeMetadata/v1/instance/{key}"
NOTICES = {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE", "preempted": "TRUE"}
PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")
LOOK_S, ANSWER_S = 5.0, 1.0


def notice() -> str:
    """The key of a notice that this machine is about to go; "" if there is none."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    for key, value in NOTICES.items():
        address = ADDRESS.format(host=host, key=key)
        request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(request, timeout=ANSWER_S) as answer,
        ):
            if answer.read().decode().strip() == value:
                return key
    return ""


def on_google() -> bool:
    """Whether this machine has such a server."""
    if "GCE_METADATA_HOST" in os.environ:
        return True
    with contextlib.suppress(OSError):
        return "Google" in PRODUCT.read_text()
    return False


@contextlib.contextmanager
def stop_at_notices():
    """Send SIGTERM to this process at the first notice that comes inside."""
    if not on_google():
        yield
        return
    heard = threading.Event()

    def look():
        if not heard.is_set() and (key := notice()):
            heard.set()
            print(f"the metadata server says {key}: stopping", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)

    with repeating(LOOK_S, look):
        yield
