"""Motion of a disc in two rooms: a swept test against the walls, then a slide along them.

The world is the unit square, x to the right and y down. A wall at the middle divides it into
two rooms, and a door in the wall joins them. Many discs are moved at once, each in a world of
its own. The disc is tested along its whole path, not only at its end: a long step cannot
jump through the wall.
"""

import numpy as np

RADIUS = 0.06  # of the disc
BORDER = 0.03  # thickness of the outer walls
WALL = 0.025  # half the thickness of the wall between the rooms
DOOR = 0.15  # half the width of the door, whose middle is that of the wall
STEP = 0.025  # sides that an action of 1 moves along its axis
MIDDLE = 0.5
LOW, HIGH = (
    BORDER + RADIUS,
    1 - BORDER - RADIUS,
)  # of the disc's center, along both axes
NEAR = (
    WALL + RADIUS
)  # of the center from the middle of the wall, at least, beside the door
SKIN = 1e-9  # gap to what was touched
SLIDES = 4  # contacts in one step: two walls, a corner, and one to spare


def move(position, displacement) -> np.ndarray:
    """Where discs end that start at `position` and try to move by `displacement`, [B, 2].

    A disc stops where it touches a wall, and the rest of its motion goes on along the wall.
    """
    p = np.array(position, np.float64)
    d = np.broadcast_to(np.asarray(displacement, np.float64), p.shape).copy()
    rows = np.arange(len(p))  # those that move on
    for _ in range(SLIDES):
        time, normal = first_contact(p[rows], d)
        p[rows] += d * time[:, None] + SKIN * normal
        rows, d, normal, time = (x[time < 1] for x in (rows, d, normal, time))
        if not len(rows):
            break
        d = (1 - time)[:, None] * d
        d -= (d * normal).sum(1, keepdims=True) * normal
    return np.clip(p, LOW, HIGH)


def first_contact(p, d) -> tuple[np.ndarray, np.ndarray]:
    """(share of the displacement up to the first contact [B], normal [B, 2]).

    1 and zeros for a disc that touches nothing.
    """
    time, normal = np.ones(len(p)), np.zeros_like(p)

    def take(t, hit, direction):
        nonlocal time, normal
        first = hit & (t < time)
        time = np.where(first, np.maximum(t, 0), time)
        normal = np.where(first[:, None], direction, normal)

    with np.errstate(divide="ignore", invalid="ignore"):
        for axis in (0, 1):
            for side, sign in ((LOW, 1.0), (HIGH, -1.0)):
                direction = sign * np.eye(2)[axis]
                t = (side - p[:, axis]) / d[:, axis]
                take(t, sign * d[:, axis] < 0, direction)
        for sign in (1.0, -1.0):
            # A side of the wall: the disc's center is stopped beside the door alone.
            t = (MIDDLE + sign * NEAR - p[:, 0]) / d[:, 0]
            away = np.abs(p[:, 1] + t * d[:, 1] - MIDDLE)
            front = (sign * (p[:, 0] - MIDDLE) >= NEAR) & (sign * d[:, 0] < 0)
            take(t, front & (away >= DOOR), np.array([sign, 0.0]))
            # An end of the wall, inside the door.
            t = (MIDDLE + sign * (DOOR - RADIUS) - p[:, 1]) / d[:, 1]
            away = np.abs(p[:, 0] + t * d[:, 0] - MIDDLE)
            inside = sign * (p[:, 1] - MIDDLE) <= DOOR - RADIUS
            take(t, inside & (sign * d[:, 1] > 0) & (away <= WALL), [0.0, -sign])
            for other in (1.0, -1.0):
                corner = MIDDLE + np.array([other * WALL, sign * DOOR])
                take(*corner_contact(p - corner, d))
    return time, normal


def corner_contact(offset, d) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(time, whether it is met, normal) of discs at `offset` from a corner, [B, 2]."""
    a, b = (d * d).sum(1), (offset * d).sum(1)
    c = (offset * offset).sum(1) - RADIUS**2
    root = b * b - a * c
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    touch = (offset + t[:, None] * d) / RADIUS
    return t, (root > 0) & (b < 0) & (t >= -SKIN) & (a > 0), np.nan_to_num(touch)


def is_free(position) -> np.ndarray:
    """Whether discs at `position` [..., 2] touch nothing: bool [...]."""
    x, y = np.moveaxis(np.asarray(position), -1, 0)
    inside = (np.minimum(x, y) >= LOW) & (np.maximum(x, y) <= HIGH)
    # To the nearest point of the part of the wall that is nearer, above or below the door.
    dx = np.maximum(np.abs(x - MIDDLE) - WALL, 0)
    dy = np.maximum(DOOR - np.abs(y - MIDDLE), 0)
    return inside & (np.hypot(dx, dy) >= RADIUS - 1e-6)


def room_of(position) -> np.ndarray:
    """0 for the left room and 1 for the right one: int [...], of positions [..., 2]."""
    return (np.asarray(position)[..., 0] > MIDDLE).astype(int)
