"""TFRecord files: framing, checksums, the index, compression and damage."""

import os

import numpy as np
import pytest
import robots
from tfds_files import PACKED, as_tfrecord, frame

from core.data import source_names, tfds
from core.data.files import tfrecord
from core.data.files.crc32c import crc32c, crc_of_few
from core.data.files.tfrecord import open_index, read_record
from core.data.records import BadSample

NAME = "toy-train.tfrecord-00000-of-00001"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache is a folder of the test, and nothing is remembered from other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_index.cache_clear()
    return tmp_path / "cache" / "reverie"


def some_records(count=9):
    rng = np.random.default_rng(0)
    return [rng.bytes(int(n)) for n in rng.integers(0, 400, count)]


def write(folder, records, pack=""):
    path = folder / NAME
    path.write_bytes(PACKED[pack](b"".join(map(frame, records))))
    return path


def test_checksums_are_those_of_the_standard():
    """The examples of RFC 3720, B.4, and all lengths about the edges of parts."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43
    data = np.random.default_rng(0).bytes(10_000)
    for n in (64, 65, 255, 256, 257, 511, 513, 1000, 4095, 10_000):
        assert crc32c(data[:n]) == crc_of_few(data[:n])


@pytest.mark.parametrize("pack", PACKED)
def test_records_are_read_in_any_order(pack, tmp_path, cache):
    records = some_records()
    path = write(tmp_path, records, pack)
    for i in (8, 0, 3, 3, 7):
        assert read_record(path, i, expected=9) == records[i]
    assert (tmp_path / f".{NAME}.index").exists() == (not pack)
    assert cache.exists() == bool(pack)


def test_members_of_gzip_may_follow_each_other(tmp_path):
    records = some_records()
    path = write(tmp_path, records[:4], "gzip")
    path.write_bytes(
        path.read_bytes() + PACKED["gzip"](b"".join(map(frame, records[4:])))
    )
    assert [read_record(path, i, expected=9) for i in range(9)] == records


def test_the_index_is_that_of_the_file(tmp_path, cache, monkeypatch):
    records, other = some_records(), some_records()[::-1]
    path, index = write(tmp_path, records), tmp_path / f".{NAME}.index"
    read_record(path, 0, expected=9)
    # It is used: no file is scanned again.
    open_index.cache_clear()
    monkeypatch.setattr(tfrecord, "find_starts", None)
    assert read_record(path, 5, expected=9) == records[5]
    monkeypatch.undo()
    # Another file of the same size, a damaged index, and one in a read-only folder.
    write(tmp_path, other)
    os.utime(path, ns=(1, 1))
    open_index.cache_clear()
    assert read_record(path, 5, expected=9) == other[5]
    content = bytearray(index.read_bytes())
    content[-9] ^= 1
    index.write_bytes(content)
    open_index.cache_clear()
    assert read_record(path, 7, expected=9) == other[7]
    index.unlink()
    index.mkdir()  # cannot be written
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    open_index.cache_clear()
    assert read_record(path, 2, expected=9) == other[2]
    [kept] = (tmp_path / "elsewhere" / "reverie").iterdir()
    assert kept.name.startswith(NAME) and kept.suffix == ".index"


def test_no_damaged_byte_is_read_as_data(tmp_path):
    records = some_records()
    path = write(tmp_path, records)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    seen = set()
    for at in rng.choice(len(whole), 80, replace=False):
        bad = bytearray(whole)
        bad[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        os.utime(path, ns=(int(at), int(at)))
        open_index.cache_clear()
        damaged = []
        for i, record in enumerate(records):
            try:
                assert read_record(path, i, expected=9) == record
            except BadSample as error:
                damaged.append(i)
                seen.add(str(error).split(NAME)[1][:12])
                assert NAME in str(error) and "download or copy it again" in str(error)
        assert damaged
    assert seen == {" is damaged ", ": the checks"}  # of a length, of data


@pytest.mark.parametrize("pack", PACKED)
def test_a_cut_file_gives_the_records_before_the_cut(pack, tmp_path):
    rng = np.random.default_rng(1)
    records = [rng.bytes(30_000) for _ in range(9)]  # as large compressed
    path = write(tmp_path, records, pack)
    path.write_bytes(path.read_bytes()[: 5 * 30_000])
    assert read_record(path, 3, expected=9) == records[3]
    for i in (4, 8):
        with pytest.raises(
            BadSample,
            match=f"{NAME} is cut after byte 120064 and 4 of 9 records; download",
        ):
            read_record(path, i, expected=9)
    path.write_bytes(b"no records at all")
    open_index.cache_clear()
    with pytest.raises(BadSample, match=f"{NAME} is damaged after byte 0 and 0 of 9"):
        read_record(path, 0, expected=9)
    write(tmp_path, records)
    open_index.cache_clear()
    with pytest.raises(BadSample, match="has 9 records, but dataset_info.json says 8"):
        read_record(path, 0, expected=8)


@pytest.fixture(scope="module")
def rlds(tmp_path_factory):
    """The folder of a data set's version in three compressed shards."""
    folder = tmp_path_factory.mktemp("rlds")
    robots.write_rlds(folder)
    version = folder / "episodes" / "1.0.0"
    as_tfrecord(version, shards=3, pack="gzip", suffix=".gz")
    return version


def test_mistakes_about_a_data_set_name_file_and_remedy(rlds):
    files = sorted(rlds.glob("*.gz"))
    kept = files[1].read_bytes()
    whole = len(source_names.recordings(str(rlds)))
    assert whole == len(robots.LENGTHS)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    try:
        for content, words in (
            (pointer, r"00001-of-00003.gz is a git-LFS pointer.*git lfs pull"),
            (b"", "00001-of-00003.gz is empty; download it again"),
        ):
            files[1].write_bytes(content)
            with pytest.raises(ValueError, match=words):
                source_names.recordings(str(rlds))
        files[1].unlink()
        with pytest.raises(
            ValueError, match="lacks 1 of its 3 files, such as .*00001-of"
        ):
            source_names.recordings(str(rlds))
    finally:
        files[1].write_bytes(kept)


def test_damaged_episodes_are_named(rlds):
    [*_, last] = sorted(rlds.glob("*.gz"))
    kept = last.read_bytes()
    recordings = source_names.recordings(str(rlds))
    try:
        last.write_bytes(kept[: len(kept) // 2])
        assert recordings.name(3) == f"{last.name}[1]"
        with pytest.raises(BadSample, match=f"{last.name} is cut after byte"):
            recordings.load(3)
        robots.assert_same(robots.whole(recordings.load(1)), robots.expected("rlds", 1))
    finally:
        last.write_bytes(kept)


def test_a_cut_file_of_array_record_gives_bad_samples(tmp_path):
    """It gives empty records where it is cut at a block."""
    place = robots.write_rlds(tmp_path)
    [file] = tmp_path.glob("episodes/1.0.0/*.array_record*")
    content = file.read_bytes()
    for left in (len(content) // 2, 100):
        file.write_bytes(content[:left])
        tfds.open_split.cache_clear()
        with pytest.raises(BadSample, match=f"{file.name} is cut or damaged, or its w"):
            source_names.recordings(place).load(0)
