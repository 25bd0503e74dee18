"""Videos at addresses: range requests, presigned queries, and what is never printed."""

import contextlib
import functools
import http.server
import threading
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from clocks import STEADY, read_clock, write, write_clock

from core.data.clips import View
from core.data.files import urls
from core.data.loading.pipeline import make_source
from core.data.records import BadSample
from core.data.video_folder import VideoFolder
from core.prepare import video_clips

VIEW = View(frames=4, fps=10, size=16, kind="center")
QUERY = "?X-Amz-Signature=secret&X-Amz-SignedHeaders=host"


class Server(http.server.BaseHTTPRequestHandler):
    """Serves a folder to addresses with QUERY; /whole/ knows no ranges, /busy/ is busy."""

    def __init__(self, *args, folder, sent):
        self.folder, self.sent = folder, sent
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_GET(self):  # presigned for GET alone: any other method is refused
        path, _, query = self.path.partition("?")
        content = (self.folder / unquote(Path(path).name)).read_bytes()
        if f"?{query}" != QUERY:
            return self.send_error(403)
        if path.startswith("/busy/") and not self.sent.get(path):
            self.sent[path] = 1
            return self.send_error(503)
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1]
        if path.startswith("/whole/"):
            self.send_response(200)
            part = content
        else:
            self.send_response(206)
            end = int(first) + len(part) - 1
            self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        self.sent[self.path] = self.sent.get(self.path, 0) + len(part)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(address, folder that is served, {address: bytes sent})."""
    sent = {}
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Server, folder=folder, sent=sent)
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setattr(urls, "WAITS_S", (0.01,))
    yield f"http://127.0.0.1:{running.server_port}", folder, sent
    running.shutdown()
    running.server_close()


def listed(tmp_path, *lines):
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return VideoFolder(str(tmp_path / "list.txt"), VIEW)


@pytest.mark.parametrize("place", ["", "/whole", "/busy"])
def test_presigned_addresses_are_read_like_files(place, server, tmp_path):
    address, folder, _ = server
    write_clock(folder / "c d.mp4", STEADY[:8])
    (folder / "c d.mp4").rename(folder / "c d.MP4")
    videos = listed(tmp_path, f"{address}{place}/c d.MP4{QUERY}, 7")
    assert videos.name(0) == f"{address}{place}/c d.MP4"
    item = videos.load(0, None)
    np.testing.assert_array_equal(read_clock(item["video"]), [2, 3, 4, 5])
    assert item["label"] == 7


def test_only_the_parts_that_are_needed_are_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(urls, "BLOCK", 16384)
    address, folder, sent = server
    noise = np.random.default_rng(0).integers(0, 255, (300, 48, 64, 3), np.uint8)
    write(folder / "long.mp4", noise, np.arange(300) / 10)
    videos = listed(tmp_path, f"{address}/long.mp4{QUERY}")
    videos.load(0, None)
    size = (folder / "long.mp4").stat().st_size
    assert 0 < sum(sent.values()) < size / 3, (sent, size)
    assert urls.read_url(videos.paths[0]) == (folder / "long.mp4").read_bytes()


def test_queries_and_passwords_are_never_named(server, tmp_path):
    address, folder, _ = server
    write_clock(folder / "a.mp4", STEADY[:8])
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:900])
    expired = f"{address}/a.mp4?X-Amz-Signature=secret-too-old"
    secret = f"{address.replace('//', '//me:secret@')}/cut.mp4{QUERY}"
    again = f"{address}/cut.mp4{QUERY}&again=secret"
    videos = listed(tmp_path, f"{address}/a.mp4{QUERY}", expired, secret, again)
    cut = f"{address}/cut.mp4"
    names = [f"{address}/a.mp4", f"{address}/a.mp4 (2)", cut, f"{cut} (2)"]
    assert [videos.name(i) for i in range(4)] == names
    with make_closing(videos) as source:
        source.next()
        found = str(source.report()["new"])
    assert "HTTP status 403 Forbidden; a signed address may have expired" in found
    assert "is cut: it has 900 of" in found and "secret" not in found
    plan = video_clips.VideoPlan(str(tmp_path / "list.txt"))
    assert [name for name, _, _ in plan.sources()] == names
    facts = video_clips.cut_videos(plan, tmp_path / "work")
    assert [bool(x["bad"]) for x in facts.values()] == [True, True, True, True]
    written = [x.read_text() for x in (tmp_path / "work").glob("*/facts.json")]
    assert len(written) == 4 and "secret" not in str(written)


def make_closing(videos):
    return contextlib.closing(make_source(videos, batch=8, seed=0, max_bad_share=0.9))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("abfs://bucket/a.mp4?x=secret", "abfs://bucket/a.mp4 cannot be read: .*adlfs"),
        ("oci://bucket/a.mp4", "oci://bucket/a.mp4 cannot be read: .*ocifs"),
        (
            "nowhere://a.mp4",
            "nowhere://a.mp4 has the unknown protocol nowhere://; expected https://",
        ),
    ],
)
def test_addresses_that_cannot_be_read_raise_at_once(line, words, tmp_path):
    with pytest.raises(
        ValueError, match=f"list.txt names an address: {words}"
    ) as error:
        listed(tmp_path, "https://example.org/b.mp4?y=1", line)
    assert "secret" not in str(error.value)


def test_addresses_of_fsspec_are_read_like_files(tmp_path):
    path = write_clock(tmp_path / "c.mp4", STEADY[:8])
    videos = listed(tmp_path, f"file://{path}")
    item = videos.load(0, None)
    np.testing.assert_array_equal(read_clock(item["video"]), [2, 3, 4, 5])


def test_an_address_in_place_of_a_list_raises(tmp_path):
    with pytest.raises(ValueError, match="s3://bucket/videos is an address; write"):
        VideoFolder("s3://bucket/videos?key=1", VIEW)


def test_no_answer_is_a_bad_sample(monkeypatch):
    monkeypatch.setattr(urls, "WAITS_S", ())
    with pytest.raises(BadSample, match="no answer: .*refused"):
        urls.read_url("http://127.0.0.1:9/a.mp4?x=1")
