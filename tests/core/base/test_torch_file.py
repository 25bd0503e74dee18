"""PyTorch's zip files, against values that torch itself wrote; nothing in them is run."""

import pathlib
import zipfile

import numpy as np
import pytest
import torch_zip

from core.base.torch_file import Tensor, read_structure, read_tensors

FOLDER = pathlib.Path(__file__).parents[2] / "fixtures" / "torch_file"
CONTENT = FOLDER / "content.pt"


def tensors_of(value, name="") -> dict:
    if isinstance(value, Tensor):
        return {name: value}
    if not isinstance(value, dict):
        return {}
    found = {}
    for key, entry in value.items():
        found |= tensors_of(entry, f"{name}/{key}" if name else str(key))
    return found


@pytest.fixture(scope="module")
def values():
    with np.load(FOLDER / "values.npz") as file:
        return dict(file)


def test_file_of_torch_reads_as_torch_does(values):
    content = read_structure(CONTENT)
    found = read_tensors(CONTENT, tensors_of(content))
    assert found.keys() == values.keys()
    for name, x in values.items():
        assert found[name].dtype == x.dtype and found[name].shape == x.shape, name
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    assert content["plain"] == [None, True, -5, 2**40, 0.5, ("x", ())]
    assert content["size"] == (2, 3)
    group = content["opt"]["param_groups"][0]
    assert group["params"] == [0, 1] and group["betas"] == (0.9, 0.999)


def test_the_writer_of_the_tests_agrees(tmp_path):
    given = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "n": [1, (None, "x")]}
    torch_zip.save(tmp_path / "x.pt", given)
    content = read_structure(tmp_path / "x.pt")
    assert content["n"] == [1, (None, "x")]
    found = read_tensors(tmp_path / "x.pt", {"a": content["a"]})
    np.testing.assert_array_equal(found["a"], given["a"])


def test_other_classes_are_refused_and_not_run(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "bad.pt"
    for module, name in (("os", "system"), ("posix", "system"), ("builtins", "eval")):
        call = torch_zip.Call(module, name, (f"touch {mark}",))
        torch_zip.save(path, {"encoder": call})
        with pytest.raises(
            ValueError, match=f"bad.pt: needs {module}.{name}, which is no"
        ):
            read_structure(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"\x80\x02}(X\x01\x00\x00\x00ai\nos\nsystem\nu.", "instruction INST"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "needs os.system"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"", "damaged"),
    ],
)
def test_programs_that_are_not_followed(program, words, tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", program)
    with pytest.raises(ValueError, match=words) as caught:
        read_structure(path)
    assert str(path) in str(caught.value)


def test_files_of_other_kinds_are_named(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(ValueError, match="x.pt cannot be read: no such file"):
        read_structure(path)
    path.write_bytes(CONTENT.read_bytes()[:-200])
    with pytest.raises(ValueError, match="x.pt is no zip archive: it is cut off"):
        read_structure(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "hello")
    with pytest.raises(ValueError, match="x.pt holds no data.pkl"):
        read_structure(path)


def test_views_beyond_their_storage_are_refused(tmp_path):
    torch_zip.save(tmp_path / "x.pt", {"a": np.zeros((2, 3), np.float32)})
    good = read_structure(tmp_path / "x.pt")["a"]
    for change in (
        {"offset": 1},
        {"stride": (4, 1)},
        {"offset": -1},
        {"shape": (3, 3)},
    ):
        with pytest.raises(ValueError, match="a: .* reaches beyond its storage"):
            read_tensors(tmp_path / "x.pt", {"a": good._replace(**change)})


def test_damaged_bytes_never_pass_as_values(tmp_path, values):
    """500 flips of one byte: the values stay the same, or the file is refused."""
    original, path = CONTENT.read_bytes(), tmp_path / "x.pt"
    rng, refused = np.random.default_rng(0), 0
    for place in rng.integers(0, len(original), 500):
        damaged = bytearray(original)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            content = read_structure(path)
            found = read_tensors(path, tensors_of(content))
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
            continue
        assert found.keys() == values.keys(), place
        for name, x in values.items():
            np.testing.assert_array_equal(found[name], x, err_msg=f"{place} {name}")
    assert refused > 100
