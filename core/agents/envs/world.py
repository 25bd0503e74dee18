"""The task world:reach: push a disc to a target, with another disc in the way."""

from math import ceil

import cv2
import numpy as np

from core.agents.spaces import Space
from core.base.packages import unknown
from core.data.bodies import physics

FPS = 8
STEPS = 64  # of an episode
PUSH = 0.25  # change of speed by an action of 1, in sides of the frame per second
KEPT = 0.05  # share of a speed that is left after a second
NEAR = 0.1  # distance from the target at which the reward is a half, in sides
RADIUS = (0.05, 0.08)  # sides, of the pushed disc and of the other one
BRIGHT, DULL = (255, 180, 80), (120, 120, 140)
BITS = 4  # fractional, of OpenCV's fixed-point coordinates


def make(name, *, seed, size):
    if name != "reach":
        raise unknown("task of world", name, ["reach"])
    return Reach(seed, size)


class Reach:
    """Discs seen from above that glide and collide without friction.

    Positions and velocities of the discs and the target are the whole state.
    """

    def __init__(self, seed, size):
        self.seed, self.size = seed, size
        self.observations = {
            "bodies": Space((8,)),
            "target": Space((2,)),
            "offset": Space((2,)),  # of the target from the pushed disc
        }
        self.actions, self.bounds = {"action": Space((2,))}, {}
        self.substeps = ceil(physics.RATE / FPS)
        self.dt = 1 / (FPS * self.substeps)

    def reset(self, episode):
        rng = np.random.default_rng([self.seed, episode])
        scene, self.target = random_scene(rng)
        self.space, self.bodies, *_ = physics.build_space(scene, self.dt)
        self.space.damping = KEPT
        self.count = 0

    def advance(self, action):
        push = np.clip(np.asarray(action["action"], np.float64), -1, 1)
        x, y = self.bodies[0].velocity + push * PUSH * physics.SIDE
        self.bodies[0].velocity = x, y
        for _ in range(self.substeps):
            self.space.step(self.dt)
        self.count += 1
        place = np.array(self.bodies[0].position) / physics.SIDE
        # Falls as 1/d^2 far away, where a Gaussian would be flat.
        reward = 1 / (1 + np.sum((self.target - place) ** 2) / NEAR**2)
        return float(reward), self.count >= STEPS, False

    def observe(self):
        moving = [(*body.position, *body.velocity) for body in self.bodies]
        moving = np.array(moving) / physics.SIDE
        offset = self.target - moving[0, :2]
        return {"bodies": moving.ravel(), "target": self.target, "offset": offset}

    def picture(self):
        """The pushed disc and the target ring in the same bright color, the other disc dull."""
        canvas = np.full((self.size, self.size, 3), 40, np.uint8)

        def circle(place, radius, color, width):
            x, y, radius = (round(v * self.size * 2**BITS) for v in (*place, radius))
            cv2.circle(canvas, (x, y), radius, color, width, cv2.LINE_AA, BITS)

        circle(self.target, NEAR, BRIGHT, 1)
        for body, radius, color in zip(
            self.bodies, RADIUS, (BRIGHT, DULL), strict=True
        ):
            circle(np.array(body.position) / physics.SIDE, radius, color, cv2.FILLED)
        return canvas

    def close(self):
        pass


def random_scene(rng: np.random.Generator):
    """(Scene of two discs at rest, target [2] behind the second one)."""
    K, margin = 2, max(RADIUS) * 1.1
    start = target = np.zeros(2)
    while np.linalg.norm(target - start) < 0.4:
        start, target = rng.uniform(margin, 1 - margin, (2, 2))
    between = (start + target) / 2 + rng.uniform(-0.05, 0.05, 2)
    scene = physics.Scene(
        shape=np.full(K, physics.CIRCLE),
        radius=np.array(RADIUS),
        position=np.stack([start, between]),
        velocity=np.zeros((K, 2)),
        angle=np.zeros(K),
        spin=np.zeros(K),
        elasticity=np.full(K, 0.8),
        friction=np.zeros(K),
        gravity=0.0,
    )
    return scene, target
