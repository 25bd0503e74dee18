"""What a run writes survives kills and full disks, and TensorBoard can read it."""

import contextlib
import json
import math
import resource
import struct

import cv2
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from core.runs.writer import FolderError, Writer


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def read_png(path):
    return cv2.imread(str(path))[..., ::-1]


def crc32c(data):
    """Castagnoli's CRC, bit by bit, from its definition (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def masked(crc):
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path):
    """TFRecord: length, its CRC, the bytes, their CRC; little endian."""
    data, events = path.read_bytes(), []
    while data:
        head, head_crc = data[:8], data[8:12]
        (size,) = struct.unpack("<Q", head)
        body, body_crc = data[12 : 12 + size], data[12 + size : 16 + size]
        assert struct.unpack("<I", head_crc)[0] == masked(crc32c(head))
        assert struct.unpack("<I", body_crc)[0] == masked(crc32c(body))
        events.append(Event.FromString(body))
        data = data[16 + size :]
    return events


def event_files(folder):
    return sorted(folder.glob("events.*"))


def test_crc32c_check_value():
    assert crc32c(b"123456789") == 0xE3069283


def test_lines_are_valid_json_even_for_nan(tmp_path):
    writer = Writer(tmp_path / "new" / "run")
    writer.write(
        1, {"loss": np.float32(0.5), "a": math.nan, "b": math.inf, "c": -1e400}
    )
    writer.write(np.int64(2), {"loss": 0.25})
    first, second = lines(tmp_path / "new" / "run")  # complete before close
    writer.close()
    assert first == {"step": 1, "loss": 0.5, "a": "nan", "b": "inf", "c": "-inf"}
    assert math.isnan(float(first["a"])) and float(first["c"]) == -math.inf
    assert second == {"step": 2, "loss": 0.25}


def test_resume_drops_later_lines_and_an_incomplete_one(tmp_path):
    writer = Writer(tmp_path)
    for step in range(1, 6):
        writer.write(step, {"loss": step})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    writer = Writer(tmp_path, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    writer.write(4, {"loss": 40})
    writer.close()
    assert [line["loss"] for line in lines(tmp_path)] == [1, 2, 3, 40]
    assert not list(tmp_path.glob("*.part"))


def test_resume_keeps_a_line_that_lacks_only_its_newline(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    Writer(tmp_path, 2).close()
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}]


def test_events_after_a_resume_go_to_a_new_file_that_hides_the_lost_steps(tmp_path):
    for resume_step in (0, 7):  # within one second: the first file must survive
        writer = Writer(tmp_path, resume_step)
        writer.write(resume_step + 1, {"loss": 1})
        writer.close()
    old, new = event_files(tmp_path)
    assert [e.step for e in read_events(old) if e.HasField("summary")] == [1]
    version, restart, summary = read_events(new)
    assert version.file_version == "brain.Event:2"
    assert restart.session_log.status == SessionLog.START and restart.step == 8
    assert summary.step == 8


def test_events_hold_scalars_and_pictures(tmp_path):
    picture, clip = noise(5, 7, 3), noise(3, 4, 6, 3)
    writer = Writer(tmp_path)
    writer.write(12, {"loss": 0.1, "x": math.nan}, {"view": picture, "a/clip": clip})
    (path,) = event_files(tmp_path)
    event = read_events(path)[-1]  # flushed before close
    writer.close()
    values = {value.tag: value for value in event.summary.value}
    assert event.step == 12 and event.wall_time > 1.7e9
    assert values["loss"].simple_value == np.float32(0.1)
    assert math.isnan(values["x"].simple_value)
    image = values["view"].image
    assert (image.height, image.width, image.colorspace) == (5, 7, 3)
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), 1)
    np.testing.assert_array_equal(decoded[..., ::-1], picture)
    saved = read_png(tmp_path / "pictures" / "00000012_view.png")
    np.testing.assert_array_equal(saved, picture)
    film = (tmp_path / "pictures" / "00000012_a-clip.png").read_bytes()
    image = values["a/clip"].image
    assert image.encoded_image_string == film
    assert (image.height, image.width, image.colorspace) == (4, 6, 3)
    ok, film = cv2.imdecodeanimation(np.frombuffer(film, np.uint8))
    frames = np.stack([frame[..., 2::-1] for frame in film.frames])
    np.testing.assert_array_equal(frames, clip)


def test_an_inactive_writer_writes_nothing(tmp_path):
    writer = Writer(tmp_path / "run", active=False)
    writer.write(1, {"loss": 1}, {"view": noise(4, 4, 3)})
    writer.close()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(FolderError) as caught:
            Writer(workdir)
        message = str(caught.value)
        assert message.startswith(f"cannot write {workdir}: ")
        assert message.endswith("give another --workdir") and "\n" not in message
    with pytest.raises(ValueError, match="mount the bucket"):
        Writer("gs://bucket/run")


@contextlib.contextmanager
def small_files():
    """The kernel refuses files over 2000 bytes, as a full disk refuses any.

    Inside a test only: pytest itself may be writing to a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    "numbers, side, name",
    [(200, 1, "metrics.jsonl"), (1, 64, "00000001_view.png"), (60, 22, "events.out")],
)
def test_a_full_disk_names_the_file(tmp_path, numbers, side, name):
    scalars = {f"n{i}": 0 for i in range(numbers)}
    with contextlib.closing(Writer(tmp_path)) as writer:
        with small_files(), pytest.raises(FolderError, match=name) as caught:
            writer.write(1, scalars, {"view": noise(side, side, 3)})
    assert "make room there" in str(caught.value)
