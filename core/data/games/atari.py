"""Atari games as recordings that are played when they are read, with labelled objects.

Scripted players follow the ball, or another object of their game, with some random actions.
They keep the ball in play without training.
"""

import dataclasses
import importlib
from typing import NamedTuple

import cv2
import numpy as np

from core.base.names import nearest
from core.data.episodes.steps import episode_flags, one_hot
from core.data.games.ram_objects import ObjectReader

PREFIX = "atari:"
RATE = 15.0  # steps per second: every fourth of 60 frames
SKIP = 4  # frames per step
STEPS = 256  # of an episode at most, 17 s
EPISODES = 200
MOST_IDLE = 60  # frames without input before an episode begins
MOST_HELD = 8  # steps that a key is held
FOLLOWED = 0.7  # share of the choices that follow the target
NEAR = 4  # pixels from the target at which a player stops
POSITION, PRESENT = "log/position", "log/present"


class Game(NamedTuple):
    """What is known of a game.

    rows: of the screen that are seen; with all 160 columns they are resized to a square.
    objects: names in the order of OCAtari's table; the player is the first.
    target: number of the object that the player follows.
    vertical: whether the keys LEFT and RIGHT move the player down and up.
    """

    rows: tuple[int, int]
    objects: tuple[str, ...]
    target: int
    vertical: bool = False


GAMES = {
    "boxing": Game((32, 186), ("Player", "Enemy"), target=1),
    "breakout": Game((32, 196), ("Player", "Ball"), target=1),
    "freeway": Game(
        (24, 196), ("Chicken", "Chicken2", *(f"Car{i}" for i in range(10))), 2
    ),
    "pong": Game((34, 194), ("Player", "Ball", "Enemy"), target=1, vertical=True),
    "tennis": Game((26, 190), ("Player", "Enemy", "Ball", "BallShadow"), target=2),
}


def is_atari(name: str) -> bool:
    """Whether a name stands for games to play."""
    return name.startswith(PREFIX)


def open_atari(name: str) -> "Episodes":
    """The episodes of "atari:GAME" or "atari:GAME:EPISODES". Raises ValueError."""
    game, _, count = name.removeprefix(PREFIX).partition(":")
    if game not in GAMES:
        raise ValueError(
            f"{name} is no game whose objects are known{nearest(game, GAMES)}; expected "
            f"atari:GAME:EPISODES with one of {', '.join(GAMES)}"
        )
    if not (count or "1").isdecimal() or count == "0":
        raise ValueError(
            f"{name} has {count!r} episodes; expected a number such as atari:{game}:200"
        )
    return Episodes(game, int(count or EPISODES))


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes of a game as recordings (core/data/episodes/trajectories.py).

    Episode i is played with seed i, always the same. Besides image, action and reward it has
    log/position float32 [T, K, 2], the centers (x, y) of the game's objects in sides of the
    picture, and log/present bool [T, K], whether an object is there and in the picture; its
    position is 0 otherwise.
    """

    game: str
    episodes: int = EPISODES

    def __str__(self):
        return f"{PREFIX}{self.game}:{self.episodes}"

    def __len__(self):
        return self.episodes

    @property
    def about(self):
        return {
            "rate": RATE,
            "names": {POSITION: list(GAMES[self.game].objects)},
            "units": {POSITION: "sides of the picture"},
            "action": [
                {"classes": len(open_console(self.game, 0).getMinimalActionSet())}
            ],
        }

    def name(self, index):
        return f"{PREFIX}{self.game}: episode {index}"

    def load(self, index):
        """The steps of an episode; its last step has a zero action."""
        return play(self.game, seed=index)


def open_console(game: str, seed: int):
    """A console with a game, without sticky actions. Raises ValueError without ale-py."""
    try:
        ale_py = importlib.import_module("ale_py")
    except ModuleNotFoundError as error:
        raise ValueError(
            "atari games need the package ale_py; run pip install -r requirements-games.txt"
        ) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    console = ale_py.ALEInterface()
    console.setInt("random_seed", seed)
    console.setFloat("repeat_action_probability", 0.0)
    console.loadROM(ale_py.roms.get_rom_path(game))
    return console


def play(game: str, seed: int) -> dict:
    """The steps of one episode (core/data/episodes/steps.py), at most STEPS."""
    known, rng = GAMES[game], np.random.default_rng(seed)
    console, reader = (
        open_console(game, seed),
        ObjectReader(game, len(GAMES[game].objects)),
    )
    keys = console.getMinimalActionSet()
    for _ in range(rng.integers(MOST_IDLE + 1)):
        console.act(0)
    images, places, actions, rewards = [], [], [], [0.0]
    left, key = 0, 0
    while True:
        images.append(observe(console, known.rows))
        places.append(reader.read(console.getRAM()))
        if len(images) == STEPS or console.game_over():
            break
        if not left:
            key, left = (
                choose_key(keys, known, places[-1], rng),
                rng.integers(MOST_HELD) + 1,
            )
        left -= 1
        actions.append(key)
        rewards.append(sum(console.act(keys[key]) for _ in range(SKIP)))
    count, (top, bottom) = len(images), known.rows
    sides = np.array((images[0].shape[1], bottom - top), np.float32)
    position = (np.stack(places) - (0, top)) / sides
    present = ((position >= 0) & (position <= 1)).all(-1)  # False if it is NaN
    action = one_hot(actions, len(keys))
    return {
        "image": np.stack(images),
        "action": np.append(action, np.zeros((1, len(keys)), np.float32), 0),
        "reward": np.array(rewards, np.float32),
        **episode_flags(count, terminal=console.game_over()),
        "time": np.arange(count) / RATE,
        POSITION: np.where(present[..., None], position, 0).astype(np.float32),
        PRESENT: present,
    }


def observe(console, rows) -> np.ndarray:
    """The rows of the screen that are seen, as a square: uint8 [160, 160, 3]."""
    screen = console.getScreenRGB()[slice(*rows)]
    side = screen.shape[1]
    return cv2.resize(screen, (side, side), interpolation=cv2.INTER_AREA)


def choose_key(keys, game: Game, places, rng) -> int:
    """The number of the next key: towards the target, or any. places: [K, 2] in pixels."""
    away = places[game.target] - places[0]
    if rng.random() > FOLLOWED or np.isnan(away).any():
        return int(rng.integers(len(keys)))
    wanted = np.where(np.abs(away) > NEAR, np.sign(away), 0)
    moves = np.array([direction(key.name, game.vertical) for key in keys])
    close = np.square(moves - wanted).sum(-1)
    return int(rng.choice(np.flatnonzero(close == close.min())))


def direction(key: str, vertical: bool) -> tuple[int, int]:
    """Where a key such as UPRIGHTFIRE moves a player: (right, down), -1 to 1 each."""
    right, down = ("RIGHT" in key) - ("LEFT" in key), ("DOWN" in key) - ("UP" in key)
    return (0, -right) if vertical else (right, down)
