"""Spaces of gymnasium as named arrays: pictures channel-last, numbers, choices."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from core.agents.envs.env import resized
from core.agents.spaces import Space

SIDE = 16  # pixels of a picture at least; smaller grids, such as maps of codes, are numbers
CHANNELS = 32  # of a picture at most, all frames of a stack together
NUMBERS = 4096  # of an array of two or more axes that is not a picture
CLASSES = 65_536  # of a choice


class Seen(NamedTuple):
    """An observation: its Space, or why there is none, and how it is read.

    read: element of the whole space -> array.
    """

    space: Space | str
    read: Callable


def leaves(space, path=()):
    """[(keys and positions, space)] of all parts that are neither Dict nor Tuple."""
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        return [(path, space)]
    return [leaf for key, part in parts for leaf in leaves(part, (*path, key))]


def join(path, root: str) -> str:
    """The name of a part: a/b is entry b of dict a; a tuple's are ROOT/0, ROOT/1."""
    outer = () if path and isinstance(path[0], str) else (root,)
    return "/".join(map(str, (*outer, *path)))


def observations(space, *, size: int) -> dict[str, Seen]:
    """The observations of a space by name; empty arrays are left out.

    size: pixels of a picture's side. A single picture is "image", other arrays "state".
    """
    found = {}
    for path, part in leaves(space):
        if part.shape is not None and 0 in part.shape:
            continue
        seen = observation(part, size=size)
        image = isinstance(seen.space, Space) and seen.space.is_image
        name = join(path, "image" if image and not path else "state")
        found[name] = seen._replace(read=lambda x, p=path, f=seen.read: f(take(x, p)))
    return found


def take(x, path):
    """The part of an element of a space."""
    for key in path:
        x = x[key]
    return x


def observation(space, *, size: int) -> Seen:
    """One observation, without its name."""
    if isinstance(space, spaces.Discrete):
        return choices((), int(space.n), space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return choices(space.shape, int(space.nvec.max()), space.start)
    if isinstance(space, spaces.MultiBinary):
        return choices(space.shape, 2, 0)
    if not isinstance(space, spaces.Box):
        return Seen(f"is {space}, which the networks do not read", take)
    form, scale = picture_form(space.shape), picture_scale(space)
    if form and scale:
        channels, arrange = form
        shape = space.shape

        def picture(x):
            return resized(arrange(as_bytes(x, shape, scale)), size)

        return Seen(Space((size, size, channels), "uint8"), picture)
    if needs_picture(space):
        return Seen(
            f"is {space.dtype} {space.shape} from {space.low.min():g} to "
            f"{space.high.max():g}, which is not a picture: [height, width], with up to "
            f"{CHANNELS} channels at either end and frames stacked before, from 0 to "
            "255, or reals from 0 to 1",
            take,
        )
    shape = space.shape or (1,)
    return Seen(Space(shape), lambda x: np.reshape(x, shape))


def choices(shape, classes: int, start) -> Seen:
    """Integers from `start`, of so many classes."""
    if classes > CLASSES:
        return Seen(f"has {classes:,} classes; expected {CLASSES:,} or fewer", take)
    return Seen(Space(shape, "int32", classes), lambda x: np.asarray(x) - start)


def picture_form(shape):
    """(channels, array of this shape -> [height, width, channels]) of pictures.

    [H, W], [H, W, C], [C, H, W], or a stack of these, whose frames become channels; C is
    the axis that is smaller than both others. None for other shapes.
    """
    if len(shape) == 2 and min(shape) >= SIDE:
        return 1, lambda x: x[..., None]
    if len(shape) == 3:
        for axis, sides in ((2, shape[:2]), (0, shape[1:])):
            count = shape[axis]
            if count <= CHANNELS and count < min(sides) and min(sides) >= SIDE:
                return count, lambda x, axis=axis: np.moveaxis(x, axis, -1)
    if len(shape) == 4 and (inner := picture_form(shape[1:])):
        count, one = inner
        if shape[0] * count <= CHANNELS:
            return shape[0] * count, lambda x: np.concatenate([*map(one, x)], -1)
    return None


def picture_scale(space) -> int:
    """255 for reals in 0..1, 1 for numbers in 0..255, 0 for other bounds."""
    low, high = np.unique(space.low), np.unique(space.high)
    if len(low) > 1 or len(high) > 1 or low[0] != 0:
        return 0
    if high[0] == 255:
        return 1
    return 255 if high[0] == 1 and space.dtype.kind == "f" else 0


def needs_picture(space) -> bool:
    """Whether an array that is not a picture would be wrong or too large as numbers."""
    shape = space.shape
    wide = len(shape) >= 2 and sorted(shape)[-2] >= SIDE
    return wide and (
        len(shape) >= 3 or space.dtype == np.uint8 or np.prod(shape) > NUMBERS
    )


def as_bytes(x, shape, scale: int) -> np.ndarray:
    """Numbers in 0..255 / scale as uint8; raises ValueError for others."""
    x = np.asarray(x)
    if x.shape != shape:
        raise ValueError(f"a picture is {x.shape}; its space says {shape}")
    if x.dtype == np.uint8 and scale == 1:
        return x
    if not (x.min() >= 0 and x.max() * scale <= 255.001):
        raise ValueError(
            f"a picture holds {x.min():g} to {x.max():g}; its space says 0 to "
            f"{255 // scale}"
        )
    return np.clip(np.rint(x * scale), 0, 255).astype(np.uint8)


class Acted(NamedTuple):
    """An action: Spaces by name, bounds of reals by name, and how it is made.

    make: actions by name, in their own units -> element of the space.
    """

    spaces: dict[str, Space]
    bounds: dict[str, tuple]
    make: Callable


def actions(space) -> Acted:
    """The actions of a space. Raises ValueError for spaces that are not supported."""
    found, bounds, makers = {}, {}, {}
    for path, part in leaves(space):
        one = action(part, join(path, "action"))
        makers[path] = one.make
        if taken := sorted(found.keys() & one.spaces.keys()):
            raise ValueError(f"two actions would be called {taken[0]!r}; rename one")
        found |= one.spaces
        bounds |= one.bounds

    def make(named, space=space, path=()):
        if isinstance(space, spaces.Dict):
            parts = space.spaces.items()
            return {k: make(named, part, (*path, k)) for k, part in parts}
        if isinstance(space, spaces.Tuple):
            parts = enumerate(space.spaces)
            return tuple(make(named, part, (*path, i)) for i, part in parts)
        return makers[path](named)

    return Acted(found, bounds, make)


def action(space, name: str) -> Acted:
    """One action: reals, or a choice; several choices become one array, or NAME_0, NAME_1
    if they have different numbers of classes.
    """
    if isinstance(space, spaces.Discrete):
        one = Space((), "int32", int(space.n))
        check_classes(name, [one.classes])
        return Acted({name: one}, {}, lambda named: int(named[name] + space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return several(space, name, space.nvec, space.start)
    if isinstance(space, spaces.MultiBinary):
        return several(space, name, np.full(space.shape, 2), 0)
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"{name!r} is {space}, which an agent cannot choose; expected Discrete, "
            "MultiDiscrete, MultiBinary or Box, or a Dict or Tuple of these"
        )
    if 0 in space.shape:
        return Acted({}, {}, lambda named: np.zeros(space.shape, space.dtype))
    if space.dtype.kind == "f":

        def reals(named):
            return np.reshape(named[name], space.shape).astype(space.dtype)

        return Acted({name: Space(space.shape)}, {name: (space.low, space.high)}, reals)
    counts = space.high.astype(float) - space.low.astype(float) + 1
    return several(space, name, counts, space.low)


def several(space, name: str, counts, starts) -> Acted:
    """An array of choices: integers from `starts`, below `starts` + `counts`."""
    numbers = [int(n) for n in np.ravel(counts)]
    check_classes(name, numbers)
    if len(set(numbers)) == 1:
        found = {name: Space(space.shape, "int32", numbers[0])}
    else:
        digits = len(str(len(numbers) - 1))  # so that sorting by name keeps the order
        pairs = enumerate(numbers)
        found = {f"{name}_{i:0{digits}}": Space((), "int32", n) for i, n in pairs}

    def make(named):
        parts = np.reshape([named[k] for k in found], space.shape)
        return np.asarray(parts + starts, space.dtype)

    return Acted(found, {}, make)


def check_classes(name: str, counts):
    """Raise ValueError for a choice among more classes than an actor has outputs for."""
    if counts and max(counts) > CLASSES:
        raise ValueError(
            f"{name!r} is a choice among {max(counts):,} integers; expected {CLASSES:,} "
            "or fewer, or reals"
        )
