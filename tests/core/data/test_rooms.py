"""Two rooms: closed-form contacts, no tunnels, pictures, recordings, windows, goals."""

import numpy as np
import pytest

from core.data import source_names
from core.data.episodes.scripted import POSITION, STEPS, Episodes, open_task
from core.data.episodes.steps import LazyImages, episode_flags
from core.data.episodes.trajectories import EpisodeWindows, UncutWindows, starts_within
from core.data.records import BadSample
from core.data.rooms import physics
from core.data.rooms.draw import draw
from core.data.rooms.episodes import TWO_ROOMS
from core.data.rooms.goals import REACHED, TwoRooms, crosses


def test_contacts_are_those_of_geometry():
    left, right = 0.5 - 0.025 - 0.06, 0.5 + 0.025 + 0.06
    low, high = 0.03 + 0.06, 1 - 0.03 - 0.06
    cases = [
        ((0.3, 0.2), (0.5, 0.0), (left, 0.2)),  # head-on
        ((0.3, 0.2), (0.5, 0.1), (left, 0.3)),  # slides down the wall
        ((0.7, 0.8), (-0.5, 0.0), (right, 0.8)),
        ((0.3, 0.5), (0.4, 0.0), (0.7, 0.5)),  # through the door
        ((0.3, 0.5), (0.4, 0.05), (0.7, 0.55)),
        ((0.5, 0.5), (0.0, 0.4), (0.5, 0.5 + 0.15 - 0.06)),  # an end of the wall
        ((0.2, 0.2), (-1.0, -1.0), (low, low)),
        ((0.8, 0.2), (3.0, 0.5), (high, 0.7)),
    ]
    start, way, wanted = (np.array(x) for x in zip(*cases, strict=True))
    np.testing.assert_allclose(physics.move(start, way), wanted, atol=1e-7)
    # A corner of the wall, met off its middle: contact where the distance is the radius.
    corner, height = np.array([0.475, 0.65]), 0.62
    p = physics.move([[0.3, height]], [[0.3, 0.0]])[0]
    time, normal = physics.first_contact(
        np.array([[0.3, height]]), np.array([[0.3, 0.0]])
    )
    touch = 0.475 - np.sqrt(0.06**2 - 0.03**2)
    np.testing.assert_allclose(0.3 + 0.3 * time, touch, atol=1e-9)
    np.testing.assert_allclose(normal[0], ([touch, height] - corner) / 0.06, atol=1e-9)
    assert p[1] < height  # deflected into the door


def test_long_steps_do_not_tunnel():
    """Against a sampled path: where none of its points is inside a wall, all of it is taken;
    where one is, the disc is elsewhere; and it never ends inside a wall."""
    rng, n = np.random.default_rng(0), 4000
    start = rng.uniform(0.09, 0.91, (3 * n, 2))
    start = start[physics.is_free(start)][:n]
    way = rng.normal(0, 0.4, start.shape)
    end = physics.move(start, way)
    assert physics.is_free(end).all()
    share = np.linspace(0, 1, 400)[:, None, None]
    clear = physics.is_free(start + share * way).all(0)
    assert 0.05 < clear.mean() < 0.6
    np.testing.assert_allclose(end[clear], (start + way)[clear], atol=1e-7)
    blocked = np.abs(end - start - way).max(1) > 1e-4
    assert (blocked | clear).mean() > 0.995  # all but touches between two samples
    # A straight line that leaves a room outside the door ends in the room, or at the door.
    x = (0.5 - start[:, 0]) / way[:, 0]
    missed = (x > 0) & (x < 1) & (np.abs(start[:, 1] + x * way[:, 1] - 0.5) > 0.3)
    same = physics.room_of(end) == physics.room_of(start)
    slid = np.abs(end[:, 1] - 0.5) < 0.5
    assert missed.sum() > 100 and (same | slid)[missed].all()
    assert same[missed].mean() > 0.8


def test_pictures_show_the_disc_where_it_is():
    place = np.array([[0.2, 0.3], [0.71, 0.66], [0.5, 0.5]])
    for size in (32, 64):
        empty = draw(np.array([[-9.0, -9.0]]), size)[0].astype(float)
        pictures = draw(place, size).astype(float)
        for at, picture in zip(place[:2], pictures, strict=False):
            change = np.abs(picture - empty)[..., 1]
            grid = (np.arange(size) + 0.5) / size
            center = [(change.sum(axis) @ grid) / change.sum() for axis in (0, 1)]
            np.testing.assert_allclose(center, at, atol=0.06 / size)
            area = (change > 0).sum() / size**2
            assert np.pi * 0.06**2 < area < np.pi * (0.06 + 1.5 / size) ** 2
        assert (pictures[2, size // 2, size // 2] == (222, 62, 48)).all()


def test_recordings_follow_from_their_actions_and_splits_differ():
    episodes = open_task(TWO_ROOMS, "two_rooms:60:32")
    assert len(episodes) == 60 and episodes.size == 32
    steps = episodes.load(17)
    place, action = steps[POSITION][:, 0], steps["action"]
    assert place.shape == action.shape == (STEPS, 2) and np.abs(action).max() <= 1
    moved = physics.move(place[:-1], physics.STEP * action[:-1])
    np.testing.assert_allclose(moved, place[1:], atol=1e-6)
    assert steps["image"][4:6].shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(
        Episodes(TWO_ROOMS, 5000, 32).load(17)["action"], action
    )
    assert not np.array_equal(
        Episodes(TWO_ROOMS, 60, 32, seed=1).load(17)["action"], action
    )
    crossed = [np.ptp(physics.room_of(episodes.load(i)[POSITION])) for i in range(60)]
    assert np.mean(crossed) > 0.9
    actions = np.stack([episodes.load(i)["action"] for i in range(60)])
    again = (actions[:, 1:] == actions[:, :-1]).all(-1)
    free = (np.abs(actions[:, :-1]) < 1).any(-1)  # others are equal by their bounds too
    np.testing.assert_allclose(again[free].mean(), 0.05, atol=0.015)
    train, held = (
        source_names.recordings("two_rooms:60:32", s) for s in ("train", "validation")
    )
    names = [{part.name(i) for i in range(len(part))} for part in (train, held)]
    assert len(names[0]) == 57 and len(names[1]) == 3 and not names[0] & names[1]
    assert source_names.is_trajectories("two_rooms")


@pytest.mark.parametrize(
    "name", ["two_rooms:x", "two_rooms:5:0", "two_rooms:5:600", "two_rooms:1:2:3"]
)
def test_names_that_cannot_be(name):
    with pytest.raises(ValueError, match="expected"):
        source_names.recordings(name)


class Numbered:
    """One recording of three episodes, whose observation counts steps."""

    about = {}

    def __init__(self, torn=False):
        self.torn = torn

    def __len__(self):
        return 1

    def name(self, index):
        return "numbered"

    def load(self, index):
        parts = [episode_flags(n, terminal=False) for n in (3, 7, 5)]
        steps = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        count = np.arange(15)
        shown = np.full((15, 2, 2, 3), count.reshape(-1, 1, 1, 1), np.uint8)

        def decode(part):
            if self.torn:
                raise BadSample("is torn")
            return shown[part]

        images = LazyImages(15, decode)
        more = {"x": count[:, None].astype(np.float32), "image": images}
        return steps | more | {"action": count[:, None] + 0.5, "reward": count * 0.0}


def test_windows_lie_in_one_episode():
    first = Numbered().load(0)["is_first"]
    brute = [t for t in range(11) if not first[t + 1 : t + 5].any()]
    np.testing.assert_array_equal(starts_within(first, 5), brute)
    windows = EpisodeWindows(Numbered(), 5)
    seen = set()
    for seed in range(40):
        item = windows.load(0, np.random.default_rng(seed))
        t = int(item["x"][0, 0])
        seen.add(t)
        np.testing.assert_array_equal(item["x"][:, 0], t + np.arange(5))
        np.testing.assert_array_equal(item["action"][1:, 0], t + np.arange(4) + 0.5)
        for part in (slice(None), slice(None, None, 2), slice(1, 9)):
            x = item["image"][part]
            assert x.shape[1:] == (2, 2, 3)
            np.testing.assert_array_equal(x[:, 0, 0, 0], t + np.arange(5)[part])
    assert seen == set(brute)
    with pytest.raises(BadSample, match="is torn") as error:
        EpisodeWindows(Numbered(torn=True), 5).load(0)["image"][::2]
    assert error.value.blamed == "numbered"
    with pytest.raises(
        BadSample, match="has no episode of 8 steps, and neither have 63"
    ):
        EpisodeWindows(Numbered(), 8).load(0)

    class Cut:
        """Records of which every third is uncut."""

        def __len__(self):
            return 9

        def load(self, index, rng=None):
            return {"is_first": np.array([True, index % 3 > 0]), "n": index}

    rng = np.random.default_rng(0)
    assert {UncutWindows(Cut()).load(i, rng)["n"] % 3 for i in range(9)} == {0}


def test_problems_side_by_side_are_those_alone():
    rng = np.random.default_rng(0)
    place = np.array([[0.2, 0.3], [0.8, 0.6], [0.4, 0.5]], np.float32)[:, None]
    actions = rng.uniform(-3, 3, (6, 3, 2))
    world = TwoRooms(32)
    world.reset({POSITION: place})
    for action in actions:
        world.step(action)
    for b in range(3):
        alone = TwoRooms(32)
        alone.reset({POSITION: place[b : b + 1]})
        for action in actions:
            alone.step(action[b : b + 1])
        np.testing.assert_array_equal(
            alone.observe()["image"][0], world.observe()["image"][b]
        )
    goals = {POSITION: world.observe()[POSITION] + [[[REACHED + 0.01, 0]]]}
    np.testing.assert_allclose(world.distance(goals), REACHED + 0.01, atol=1e-6)
    assert not world.reached(goals).any()
    across = crosses({POSITION: place}, {POSITION: place[[1, 1, 0]]})
    assert across.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="problem 1 is .*inside a wall"):
        world.reset({POSITION: np.array([[[0.2, 0.2]], [[0.5, 0.1]]])})
    with pytest.raises(ValueError, match=r"expected \[problems, 1, 2\]"):
        world.reset({POSITION: place[:, 0]})
