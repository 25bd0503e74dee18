"""An endless dataset of small colliding bodies, drawn and labelled on the fly."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from core.data.bodies import levels, physics, render
from core.data.bodies.levels import LEVELS, Level

VARIANTS = ("passive", "pushed", "violation")
# One random stream per use: changing what one draws leaves the others as they are.
STREAMS = (
    "physics", "push", "breach", "color", "texture", "light", "distractor", "noise",
    "flicker",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """Clips of bodies in a box; item i depends on i and the fields, nothing else.

    passive: nobody interferes. pushed: an agent pushes body 0. violation: items 2j and
    2j + 1 are twins, alike until the odd one breaks a law of physics.
    """

    seed: int
    frames: int = 8
    size: int = 64
    bodies: int = 3
    variant: str = "passive"
    level: str = "cluttered"
    fps: float = 8.0  # frames per simulated second
    overrides: Mapping | None = None  # fields of Level to set otherwise

    def __post_init__(self):
        _check_choice("variant", self.variant, VARIANTS)
        _check_choice("level", self.level, LEVELS)
        _check_whole("seed", self.seed, 0, 2**63 - 1)
        _check_whole("frames", self.frames, 2, 1024)
        _check_whole("size", self.size, 16, 1024)
        _check_whole("bodies", self.bodies, 1, 12)
        if not 1 <= self.fps <= 240:
            raise ValueError(f"World.fps is {self.fps}; expected 1 to 240")
        known = [f.name for f in fields(Level)]
        for name in self.overrides or {}:
            if name not in known:
                raise ValueError(
                    f"World.overrides names {name!r}; known are {', '.join(known)}"
                )

    def __len__(self):
        return 2**31 - 1

    def name(self, index):
        """What reports call item index."""
        return f"world/{self.variant}/{index}"

    def load(self, index, rng=None):
        """Item index: a clip and its ground truth, T frames, K bodies, sides, seconds.

        video uint8 [T, size, size, 3]; position, velocity [T, K, 2], x right, y down;
        visible [T, K]; shape, radius [K]; color [K, 3] in 0..1, unlit; contact bool
        [T, K, K + 4], touches since the previous frame of bodies, then left, right,
        floor, ceiling; action [T, 2], the push of body 0 between this frame and the
        next; violation, violation_frame int32. rng is not used: nothing is random.
        """
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a World of {len(self)}")
        twins = self.variant == "violation"
        stream = partial(_stream, self.seed, index // 2 if twins else index)
        level = replace(LEVELS[self.level], **(self.overrides or {}))

        scene = physics.make_scene(
            stream("physics"),
            bodies=self.bodies,
            radius=level.radius,
            speed=level.speed,
            gravity=level.gravity,
        )
        action, breach = np.zeros((self.frames, 2)), None
        if self.variant == "pushed":
            action = physics.make_pushes(stream("push"), self.frames)
        length = {"frames": self.frames, "fps": self.fps}
        motion = physics.simulate(scene, pushes=action, **length)
        if twins and index % 2:
            breach = physics.make_breach(stream("breach"), scene, motion, self.fps)
            motion = physics.simulate(scene, breach=breach, **length)
        video, visible, color = self._film(level, scene, motion, stream)
        return {
            "video": video,
            "position": motion.position,
            "velocity": motion.velocity,
            "visible": visible,
            "shape": scene.shape.astype(np.int32),
            "radius": scene.radius.astype(np.float32),
            "color": color.astype(np.float32),
            "contact": motion.contact,
            "action": action.astype(np.float32),
            "violation": np.array(breach.kind if breach else 0, np.int32),
            "violation_frame": np.array(breach.frame if breach else -1, np.int32),
        }

    def _film(self, level, scene, motion, stream):
        """Video, visible shares and body colours of a motion."""
        T, K, size = self.frames, self.bodies, self.size
        span = {"frames": T, "fps": self.fps}
        ground, offset = levels.make_ground(stream("texture"), level, size=size, **span)
        base, draws = ground.mean((0, 1)), stream("color").random((K, 2))
        hue = np.arange(K) / K
        color, pair = levels.paint(
            draws, level, hue=hue, jitter=level.hue_jitter, base=base
        )
        bodies = render.Sprites(
            outline=render.body_outlines(scene.shape, scene.radius),
            colors=pair,
            convex=np.ones(K, bool),
            position=motion.position,
            angle=motion.angle,
            shown=motion.present,
        )
        behind, front = levels.make_distractors(
            stream("distractor"), level, base=base, **span
        )
        sprites = render.stack_sprites([behind, bodies, front])
        points = render.place_sprites(sprites)
        flicker = levels.make_flicker(stream("flicker"), level, frames=T, size=size)
        video = render.draw_clip(ground, offset, flicker, sprites, points, size)
        if level.drift or level.noise:
            gain = render.light_gain(
                stream("light"), amplitude=level.drift, size=size, **span
            )
            noise = 0
            if level.noise:
                noise = levels.make_noise(stream("noise"), level, video.shape)
            video = render.light_clip(video, gain, noise)
        first = behind.angle.shape[1]
        slots = range(first, first + K)
        return video, render.visible_share(sprites, points, slots, size), color


def _stream(seed, item, name):
    """The generator of one use of randomness in one item."""
    counter = [0, 0, 0, STREAMS.index(name)]
    return np.random.Generator(np.random.Philox(key=[seed, item], counter=counter))


def _check_choice(field, value, known):
    if value not in known:
        raise ValueError(
            f"World.{field} is {value!r}; expected one of {', '.join(known)}"
        )


def _check_whole(field, value, low, high):
    if not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ValueError(
            f"World.{field} is {value!r}; expected a whole number, {low} to {high}"
        )
