"""Files at addresses: https:// by range requests, other protocols by fsspec.

A query, as presigned addresses have one, and a password are part of an address, but never
of a name that is printed or stored.
"""

import base64
import http.client
import io
import time
import urllib.error
import urllib.request
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from core.base.text import one_line
from core.data.records import BadSample

BLOCK = 2**22  # bytes of a range request
SAFE = "%/:?&=#[]@!$'()*+,;~"  # characters that stay as they are in an address
TIMEOUT_S = 30.0  # without a byte
WAITS_S = (0.5, 2.0, 8.0)  # before another try
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses that may pass
REMEDIES = {
    403: "; a signed address may have expired",
    404: "; no such file",
    410: "; no such file",
}


def is_url(path: str) -> bool:
    return "://" in path


def shown_url(url: str) -> str:
    """An address without its query, fragment, user and password."""
    parts = urlsplit(url)
    return urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
    )


def check_protocol(url: str):
    """Raise ValueError if no installed package reads such an address."""
    import fsspec

    protocol = url.partition("://")[0]
    if protocol in ("http", "https"):
        return
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:  # fsspec names the package
        why = one_line(error).rstrip(".")
        raise ValueError(f"{shown_url(url)} cannot be read: {why}") from None
    except ValueError:
        raise ValueError(
            f"{shown_url(url)} has the unknown protocol {protocol}://; expected https://, "
            "gs://, s3:// or another one of fsspec"
        ) from None


def open_url(url: str):
    """A seekable binary file at an address. Raises BadSample, also when it is read."""
    if url.startswith(("http://", "https://")):
        return io.BufferedReader(HttpFile(url), BLOCK)
    import fsspec

    try:
        return fsspec.open(url, "rb").open()
    except (ImportError, ValueError) as error:
        text = one_line(error).replace(url, shown_url(url))
        raise BadSample(f"cannot be read: {text}") from None


def read_url(url: str) -> bytes:
    """The bytes of a file at an address. Raises BadSample."""
    with open_url(url) as file:
        return file.read()


class HttpFile(io.RawIOBase):
    """A file at an http:// or https:// address; `read` asks for a range of its bytes.

    A server that knows no ranges sends the whole file, which is then kept. Statuses that
    may pass and broken connections are tried again. Raises BadSample.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        whole = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
        self.url = quote(whole, safe=SAFE)
        self.headers = {"User-Agent": "reverie"}
        if at:
            word = base64.b64encode(unquote(user).encode()).decode()
            self.headers["Authorization"] = f"Basic {word}"
        self.place, self.size, self.whole = 0, None, None

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.place

    def seek(self, offset, whence=io.SEEK_SET):
        if whence == io.SEEK_END and self.size is None:
            self._fetch(0, 1)
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}
        self.place = max(0, start[whence] + offset)
        return self.place

    def readinto(self, buffer):
        count = len(buffer)
        if self.size is not None:
            count = min(count, self.size - self.place)
        if count <= 0:
            return 0
        found = self._fetch(self.place, count)
        buffer[: len(found)] = found
        self.place += len(found)
        return len(found)

    def readall(self):
        parts = [self.read(BLOCK)]
        parts.append(self.read(self.size - self.place) if parts[0] else b"")
        return b"".join(parts)

    def _fetch(self, start, count) -> bytes:
        """Bytes start..start + count - 1, fewer at the end of the file."""
        if self.whole is None:
            for wait in (*WAITS_S, None):
                try:
                    return self._ask(start, count)
                except urllib.error.HTTPError as error:
                    if wait is None or error.code not in PASSING:
                        why = REMEDIES.get(error.code, "")
                        text = f"HTTP status {error.code} {error.reason}{why}"
                        raise BadSample(text) from None
                except (OSError, http.client.HTTPException) as error:
                    if wait is None:
                        reason = getattr(error, "reason", None) or one_line(error)
                        raise BadSample(f"no answer: {reason}") from None
                time.sleep(wait)
        return self.whole[start : start + count]

    def _ask(self, start, count):
        # A presigned address is signed for GET alone, so the size comes with a range too.
        headers = self.headers | {"Range": f"bytes={start}-{start + count - 1}"}
        request = urllib.request.Request(self.url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                found = answer.read()
                if answer.status != 206:
                    self.whole, self.size = found, len(found)
                    return found[start : start + count]
                self.size = int(answer.headers["Content-Range"].rpartition("/")[2])
                return found
        except urllib.error.HTTPError as error:
            if error.code != 416:  # a range beyond the end, such as of an empty file
                raise
            self.size = start
            return b""
