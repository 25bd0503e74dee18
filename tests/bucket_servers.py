"""Servers on this machine that answer as S3 and Google Cloud Storage do, from packages."""

import contextlib
import os
import threading

import pytest

from core.submit.local import free_port

NAME = "bucket"
AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextlib.contextmanager
def environment(**names):
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class S3:
    """A server with a bucket. refuse: (method, path) -> status to answer with, or None."""

    def __init__(self, app):
        self.app, self.refuse = app, lambda method, path: None

    def __call__(self, environ, respond):
        status = self.refuse(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if status is None:
            return self.app(environ, respond)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        respond(f"{status} refused", [("Content-Length", "0")])
        return [b""]


@contextlib.contextmanager
def serve_s3():
    """Yields an S3 whose bucket is at s3://NAME; the environment names it to clients."""
    pytest.importorskip(
        "s3fs", reason="needs s3fs: pip install -r requirements-cloud.txt"
    )
    pytest.importorskip("moto.server", reason="needs moto, of the extra dev")
    import fsspec
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        create_backend_app,
    )
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_):
            pass

    app = S3(DomainDispatcherApplication(create_backend_app))
    port = free_port()
    server = make_server("127.0.0.1", port, app, True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", **AWS):
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir(NAME)
        try:
            yield app
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@contextlib.contextmanager
def serve_gs():
    """A Google Cloud Storage whose bucket is at gs://NAME, likewise."""
    pytest.importorskip(
        "gcsfs", reason="needs gcsfs: pip install -r requirements-cloud.txt"
    )
    emulator = pytest.importorskip(
        "gcp_storage_emulator.server",
        reason="needs gcp-storage-emulator, of the extra dev",
    )
    port = free_port()
    server = emulator.create_server(
        "127.0.0.1", port, in_memory=True, default_bucket=NAME
    )
    server.start()
    address = f"http://127.0.0.1:{port}"
    names = {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
    with environment(GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false", **names):
        try:
            yield
        finally:
            server.stop()
