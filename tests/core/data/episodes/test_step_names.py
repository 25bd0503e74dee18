"""Names of other data sets never collide with those of the schema."""

import pytest

from core.data.episodes.step_names import check_distinct, log_name, observation_name
from core.data.episodes.steps import RESERVED, is_observation


def test_observations_never_take_a_reserved_name():
    for name in RESERVED:
        assert observation_name(name) == f"observation_{name}"
        assert is_observation(observation_name(name))
    assert observation_name("images.top") == observation_name("images/top")
    for name in ("log/x", "model.deter", "time/step", "reward_left"):
        assert is_observation(observation_name(name))
    assert not is_observation(log_name("next.reward"))


def test_two_arrays_with_one_name_are_refused():
    names = ("state", "images.top", "state")
    found = check_distinct((name, observation_name(name)) for name in names)
    assert found == {"state": "state", "images.top": "images_top"}
    names = ("images.top", "images_top")
    with pytest.raises(ValueError, match="'images.top' and 'images_top'.*one array"):
        check_distinct((name, observation_name(name)) for name in names)
