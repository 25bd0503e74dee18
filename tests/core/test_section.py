"""Sections of a config: fields by name, and what is wrong with them in one sentence."""

import pickle

import pytest

from core.section import Section

FIELDS = {"steps": 3, "data": {"fps": 4.0, "crop": {"scale": (0.3, 1.0)}}}


def crop(video, scale, *, flip=False):
    return video, scale, flip


def test_fields_are_read_by_name_and_know_their_place():
    config = Section(FIELDS)
    assert config.steps == config["steps"] == 3
    assert config.data.crop.scale == (0.3, 1.0)
    assert config.data.crop.where("scale") == "data.crop.scale"
    assert set(config) == {"steps", "data"} and len(config.data) == 2
    assert config.to_dict() == FIELDS
    assert pickle.loads(pickle.dumps(config.data)).where("fps") == "data.fps"


def test_a_section_stays_as_it_is():
    config = Section(FIELDS)
    assert config.replace(steps=4).steps == 4 and config.steps == 3
    assert "steps" not in config.without("steps") and "steps" in config
    assert dict(config.only("steps")) == {"steps": 3}
    with pytest.raises(TypeError):
        config["steps"] = 4
    with pytest.raises(ValueError, match="no field 'stpes' where it is needed"):
        config.replace(stpes=4)


def test_fields_become_arguments():
    section = Section({"scale": 2}, "data.crop")
    assert section.into(crop, video="v") == ("v", 2, False)
    assert section.bind(crop, "video", flip=True)("w") == ("w", 2, True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"scale": 1, "flp": True},
            r"unknown field data.crop.flp \(did you mean 'flip'",
        ),
        ({"scale": 1, "video": "v"}, "sets data.crop.video, which its method sets"),
        ({}, "lacks the field 'scale' of data.crop"),
    ],
)
def test_wrong_fields_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        Section(fields, "data.crop").into(crop, video="v")


def test_an_absent_field_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"'data.fsp' where .* \(did you mean 'fps'"):
        Section(FIELDS).data.fsp  # noqa: B018
