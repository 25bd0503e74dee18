"""Rigid bodies in a closed box, simulated by pymunk. Units: frame sides, seconds; y down."""

from math import ceil, pi, sqrt
from typing import NamedTuple

import numpy as np
import pymunk

CIRCLE, SQUARE, TRIANGLE = range(3)
VANISH, TELEPORT, PASS_WALL, PASS_BODY, RISE = range(1, 6)  # kinds of Breach

# Corners around the center of mass of a body with the area of the unit disc.
_SQUARE = sqrt(pi / 2)
_TRIANGLE = sqrt(4 * pi / (3 * sqrt(3)))
CORNERS = {
    SQUARE: [(_SQUARE * np.cos(a), _SQUARE * np.sin(a)) for a in np.arange(4) * pi / 2],
    TRIANGLE: [
        (_TRIANGLE * np.cos(a), _TRIANGLE * np.sin(a))
        for a in np.arange(3) * 2 * pi / 3
    ],
}
REACH = np.array([1.0, _SQUARE, _TRIANGLE])  # center to farthest corner, in radii

SIDE = 100.0  # pymunk's tolerances (slop 0.1) suit bodies of tens of units
RATE = 160  # least simulation steps per second; a step moves a body by about 0.01 sides
PUSH = 0.5  # change of speed by a push of 1, in sides per second


class Scene(NamedTuple):
    """K bodies at frame 0; radius is that of the disc of equal area."""

    shape: np.ndarray  # int [K]
    radius: np.ndarray  # [K] sides
    position: np.ndarray  # [K, 2] sides
    velocity: np.ndarray  # [K, 2] sides per second
    angle: np.ndarray  # [K] radians
    spin: np.ndarray  # [K] radians per second
    elasticity: np.ndarray  # [K]; a contact has the product of both
    friction: np.ndarray  # [K]; likewise
    gravity: float  # sides per second squared


class Motion(NamedTuple):
    """K bodies over T frames; units as in Scene."""

    position: np.ndarray  # [T, K, 2]
    velocity: np.ndarray  # [T, K, 2]
    angle: np.ndarray  # [T, K]
    spin: np.ndarray  # [T, K]
    contact: np.ndarray  # bool [T, K, K + 4]: touched since the previous frame
    present: np.ndarray  # bool [T, K]: false once vanished


class Breach(NamedTuple):
    """A violation of physics: its kind, the body, and the first frame that shows it."""

    kind: int
    body: int
    frame: int
    place: np.ndarray  # [2], where a teleported body goes


def make_scene(rng, *, bodies, radius, speed, gravity):
    """Draw a Scene of bodies that do not touch. radius, speed, gravity: (low, high)."""
    shape = np.arange(bodies) % 3
    # More than three bodies are smaller: together they cover as much as three.
    size = _between(radius, rng.random(bodies)) * min(1.0, sqrt(3 / bodies))
    heading, pace = 2 * pi * rng.random(bodies), _between(speed, rng.random(bodies))
    velocity = pace[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
    angle, spin = 2 * pi * rng.random(bodies), rng.uniform(-6, 6, bodies)
    elasticity, friction = rng.uniform(0.6, 1.0, bodies), rng.uniform(0, 0.7, bodies)
    fall = float(_between(gravity, rng.random()))

    reach = (size * REACH[shape])[:, None]
    places = reach + rng.random((64, bodies, 2)) * (1 - 2 * reach)
    room = _room(places, reach[:, 0])
    first = int(np.argmax(room > 1.05)) if (room > 1.05).any() else int(room.argmax())
    size = size * min(1.0, room[first] / 1.05)
    return Scene(
        shape, size, places[first], velocity, angle, spin, elasticity, friction, fall
    )


def make_pushes(rng, frames):
    """Draw pushes in [-1, 1], each held for one to three frames: [frames, 2]."""
    held = np.repeat(rng.uniform(-1, 1, (frames, 2)), rng.integers(1, 4, frames), 0)
    return held[:frames]


def make_breach(rng, scene, motion, fps, kinds):
    """Draw a Breach in the middle third of `motion`, the scene without a violation.

    kinds: those to draw from. One that passes something is possible only where the body
    hits it; else it becomes a TELEPORT.
    """
    T, K = motion.angle.shape
    low, high = ceil(T / 3), 2 * T // 3
    kind, body = kinds[int(rng.integers(len(kinds)))], int(rng.integers(K))
    frame, pick = int(rng.integers(low, high + 1)), rng.random()
    places, where = rng.random((64, 2)), motion.position

    # Only a body that bounces off a wall at this frame can pass it instead.
    free = where[:-1] + motion.velocity[:-1] / fps
    free[..., 1] += scene.gravity / fps**2 / 2
    turned = np.abs(where[1:] - free).max(-1) > 0.01
    touched = motion.contact[:, :, K:].any(-1)
    bounced = turned & touched[1:] & ~touched[:-1]
    if kind == PASS_BODY:  # one that begins to touch another
        touched = motion.contact[:, :, :K].any(-1)
        bounced = touched[1:] & ~touched[:-1]
    hits = np.argwhere(bounced[low - 1 : high])
    if kind in (PASS_WALL, PASS_BODY):
        if len(hits):
            step, body = hits[int(pick * len(hits))]
            frame = low + int(step)
        else:
            kind = TELEPORT
    reach = scene.radius * REACH[scene.shape]
    places = reach[body] + places * (1 - 2 * reach[body])
    gap = np.linalg.norm(places[:, None] - where[frame], axis=-1)
    need = reach + reach[body]
    need[body] = 0.35  # far enough to be seen as a jump
    best = (gap / need).min(-1)
    return Breach(kind, int(body), frame, places[int(np.argmax(best.clip(max=1)))])


def simulate(scene, *, frames, fps, pushes=None, breach=None, places_only=False):
    """Simulate a scene: Motion over `frames` frames at `fps` frames per second.

    pushes: [T, 2]; push t acts on body 0 right after frame t. breach: a Breach or None.
    places_only: record positions and angles alone; the rest is zero.
    """
    K, steps = len(scene.shape), ceil(RATE / fps)
    dt = 1 / (fps * steps)
    space, bodies, shapes = build_space(scene, dt)
    touched = None if places_only else _Contacts(space, K)
    motion = Motion(
        position=np.empty((frames, K, 2), np.float32),
        velocity=np.zeros((frames, K, 2), np.float32),
        angle=np.empty((frames, K), np.float32),
        spin=np.zeros((frames, K), np.float32),
        contact=np.zeros((frames, K, K + 4), bool),
        present=np.ones((frames, K), bool),
    )
    for t in range(frames):
        due = breach is not None and breach.frame == t
        if due and breach.kind == PASS_WALL:
            shapes[breach.body].filter = pymunk.ShapeFilter(mask=_BODY)
        if due and breach.kind == PASS_BODY:
            alone = pymunk.ShapeFilter(categories=_BODY, mask=_WALL)
            shapes[breach.body].filter = alone
        if due and breach.kind == RISE:
            bodies[breach.body].velocity_func = _rise
        if t and pushes is not None:
            push = pushes[t - 1] * PUSH * SIDE * bodies[0].mass
            bodies[0].apply_impulse_at_world_point(tuple(push), bodies[0].position)
        for _ in range(steps if t else 0):
            space.step(dt)
        if due and breach.kind == TELEPORT:
            bodies[breach.body].position = tuple(breach.place * SIDE)
        if due and breach.kind == VANISH:
            space.remove(bodies[breach.body], shapes[breach.body])
            bodies[breach.body].velocity = (0, 0)
            motion.present[t:, breach.body] = False
        motion.position[t] = [body.position for body in bodies]
        motion.angle[t] = [body.angle for body in bodies]
        if touched:
            motion.velocity[t] = [body.velocity for body in bodies]
            motion.spin[t] = [body.angular_velocity for body in bodies]
            motion.contact[t] = touched.since_last()
    motion.position[:] /= SIDE
    if places_only:
        return motion
    motion.velocity[:] /= SIDE
    # pymunk's Euler steps follow the exact parabola if velocities are half a step of
    # gravity ahead. build_space adds it, and it is removed here.
    ahead = np.full(motion.present.shape, 0.5 * scene.gravity * dt) * motion.present
    if breach is not None and breach.kind == RISE:
        ahead[breach.frame :, breach.body] *= -1
    motion.velocity[..., 1] -= ahead
    return motion


_BODY, _WALL = 0b01, 0b10


def _rise(body, gravity, damping, dt):
    """Velocity update of a body that gravity pulls upward."""
    pymunk.Body.update_velocity(body, -gravity, damping, dt)


def build_space(scene, dt):
    """(pymunk space, bodies, shapes) of a scene. dt: seconds per step."""
    space, bodies, shapes = pymunk.Space(), [], []
    space.gravity = (0, scene.gravity * SIDE)
    K, units = len(scene.shape), scene.radius * SIDE
    for k, kind in enumerate(scene.shape):
        r = units[k]
        corners = [(r * x, r * y) for x, y in CORNERS.get(int(kind), ())]
        moment = pymunk.moment_for_poly(r * r, corners) if corners else r**4 / 2
        body = pymunk.Body(r * r, moment)
        body.position, body.angle = tuple(scene.position[k] * SIDE), scene.angle[k]
        sideways, down = scene.velocity[k]
        body.velocity = (sideways * SIDE, (down + 0.5 * scene.gravity * dt) * SIDE)
        body.angular_velocity = scene.spin[k]
        shape = pymunk.Poly(body, corners) if corners else pymunk.Circle(body, r)
        shape.elasticity, shape.friction = scene.elasticity[k], scene.friction[k]
        shape.collision_type = k + 1
        shape.filter = pymunk.ShapeFilter(categories=_BODY)
        space.add(body, shape)
        bodies.append(body)
        shapes.append(shape)
    low, high = -SIDE, 2 * SIDE  # thick walls, so that bodies do not tunnel
    boxes = [
        (low, low, 0, high),
        (SIDE, low, high, high),
        (low, SIDE, high, high),
        (low, low, high, 0),
    ]
    for w, (x0, y0, x1, y1) in enumerate(boxes):
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        wall = pymunk.Poly(space.static_body, corners)
        wall.elasticity, wall.friction, wall.collision_type = 1.0, 1.0, K + 1 + w
        wall.filter = pymunk.ShapeFilter(categories=_WALL)
        space.add(wall)
    return space, bodies, shapes


class _Contacts:
    """Records which bodies and walls touch, from pymunk's callbacks."""

    def __init__(self, space, bodies):
        self.bodies, self.touching, self.seen = bodies, set(), set()
        space.on_collision(begin=self._begin, separate=self._separate)

    def _begin(self, arbiter, space, data):
        pair = _pair(arbiter)
        self.touching.add(pair)
        self.seen.add(pair)

    def _separate(self, arbiter, space, data):
        self.touching.discard(_pair(arbiter))

    def since_last(self):
        """Contacts since the previous call: bool [K, K + 4], bodies, then walls
        (left, right, floor, ceiling).
        """
        K = self.bodies
        table = np.zeros((K + 4, K + 4), bool)
        for a, b in self.seen | self.touching:
            table[a, b] = table[b, a] = True
        self.seen.clear()
        return table[:K]


def _pair(arbiter):
    """(lower, higher) number of the two that touch; walls come after bodies."""
    a, b = (shape.collision_type - 1 for shape in arbiter.shapes)
    return min(a, b), max(a, b)


def _between(pair, share):
    return pair[0] + (pair[1] - pair[0]) * share


def _room(places, reach):
    """Smallest distance between two bodies over the sum of their reaches: places [N, K, 2]
    -> [N].
    """
    i, j = np.triu_indices(len(reach), 1)
    gap = np.linalg.norm(places[:, i] - places[:, j], axis=-1) / (reach[i] + reach[j])
    return gap.min(-1, initial=2.0)
