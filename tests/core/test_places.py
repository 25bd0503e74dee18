"""`~` is the home folder wherever a user names a place; addresses are refused."""

import pathlib
import types

import pytest

from core.base.places import expand_home, local_folder
from core.data.source_names import mixture_terms, recordings
from core.export.export_run import export_run
from core.runs import restore, run_folder
from core.runs.start import begin

ADDRESSES = ("az://bucket/run", "hf://bucket/run", pathlib.Path("az://bucket/run"))


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def homeless(monkeypatch):
    """A user without a home folder: HOME is not set, and the user id has no entry."""
    pwd = pytest.importorskip("pwd")

    def unknown(name):
        raise KeyError(name)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


def test_home_is_expanded(home):
    assert expand_home("~/runs/a") == home / "runs" / "a"
    assert local_folder("~", what="--out") == home
    assert local_folder("a", what="--out") == pathlib.Path.cwd() / "a"
    assert expand_home("a/~/b:c") == pathlib.Path("a/~/b:c")


def test_home_is_expanded_in_names_of_data(home):
    text = "0.5*~/a + 0.5*images:~/b + camera:~/c#top + tfds:d"
    names = [f"{home}/a", f"images:{home}/b", f"camera:{home}/c#top", "tfds:d"]
    assert [name for _, name in mixture_terms(text)] == names


def test_without_a_home_only_places_that_need_one_are_refused(homeless):
    assert local_folder("runs/a", what="--out") == pathlib.Path.cwd() / "runs" / "a"
    for read in (expand_home, mixture_terms, recordings):
        with pytest.raises(ValueError, match="'~', but there is no such home folder"):
            read("~/videos")


@pytest.mark.parametrize("place", ADDRESSES)
def test_addresses_are_refused_before_anything_is_made(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new = types.SimpleNamespace(latest=lambda: None)
    words = "is (az|hf):/.*, an address; expected a folder: mount the bucket"
    for call in (
        lambda: run_folder.open_folder(place, {}),
        lambda: begin(None, None, new, None, init_from=str(place)),
        lambda: restore.open_run(place),
        lambda: export_run(tmp_path, place, ["hf"]),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert not list(tmp_path.iterdir())
