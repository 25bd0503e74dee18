"""An endless data set of clips of colliding bodies, drawn and labeled on the fly."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from core.data.bodies import levels, painting, physics, render
from core.data.bodies.levels import LEVELS, Level

VARIANTS = ("passive", "pushed", "violation")
# One random stream per use, so that a change in one does not affect the others.
STREAMS = (
    "physics", "push", "breach", "color", "texture", "light", "distractor", "noise",
    "flicker", "occluder", "paint",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """Records of clips of bodies in a box; record i depends on i and the fields alone.

    frames, size: frames per clip, and pixels per side. bodies: number of bodies.
    variant: "passive"; "pushed", where an agent pushes body 0; or "violation", where records
      2 j and 2 j + 1 are equal until the second one violates physics.
    level: a name in levels.LEVELS. overrides: fields of that Level to set otherwise.
    breaches: kinds of physics.Breach that violations are drawn from.
    future: frames that are simulated beyond the clip, for labels alone.
    masks: whether records have the body that each pixel shows.
    labels: whether records have more than the video, which takes a fifth of the time.

    Raises ValueError if a field is out of range.
    """

    seed: int
    frames: int = 8
    size: int = 64
    bodies: int = 3
    variant: str = "passive"
    level: str = "cluttered"
    fps: float = 8.0  # frames per simulated second
    overrides: Mapping | None = None
    breaches: tuple[int, ...] = (physics.VANISH, physics.TELEPORT, physics.PASS_WALL)
    future: int = 0
    masks: bool = False
    labels: bool = True

    def __post_init__(self):
        _check_choice("variant", self.variant, VARIANTS)
        _check_choice("level", self.level, LEVELS)
        _check_integer("seed", self.seed, 0, 2**63 - 1)
        _check_integer("frames", self.frames, 2, 1024)
        _check_integer("size", self.size, 16, 1024)
        _check_integer("bodies", self.bodies, 1, 12)
        _check_integer("future", self.future, 0, 1024)
        if not self.labels and (self.masks or self.future):
            raise ValueError(
                f"World.masks is {self.masks} and future {self.future}; without labels "
                "expected False and 0"
            )
        if not 1 <= self.fps <= 240:
            raise ValueError(f"World.fps is {self.fps}; expected 1 to 240")
        known = [f.name for f in fields(Level)]
        for name in self.overrides or {}:
            if name not in known:
                raise ValueError(
                    f"World.overrides has no field {name!r}; expected one of "
                    f"{', '.join(known)}"
                )

    def __len__(self):
        return 2**31 - 1

    def name(self, index):
        """The name of a record in reports."""
        return f"world/{self.variant}/{index}"

    def load(self, index, rng=None):
        """A clip of T frames and K bodies, with its ground truth in frame sides and seconds.

        video: uint8 [T, size, size, 3]. position, velocity: [T, K, 2], x right, y down.
        visible: [T, K], share of a body that is not covered. shape, radius: [K].
        color: [K, 3] in 0..1, before lighting. contact: bool [T, K, K + 4], contacts since
        the previous frame with bodies, then left, right, floor, ceiling. action: [T, 2],
        push of body 0 between this frame and the next. violation: int32 [], 0 or a kind of
        physics.Breach; violation_frame: int32 [], or -1. With a future of F frames,
        future_position [F, K, 2] and future_contact [F, K, K + 4] go on after the clip.
        With masks, mask: uint8 [T, size, size], 0 or 1 + the number of the body. Without
        labels, only video. rng is not used.
        """
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of a World of {len(self)} records")
        pairs = self.variant == "violation"
        stream = partial(_stream, self.seed, index // 2 if pairs else index)
        level = LEVELS[self.level]
        if self.overrides:
            level = replace(level, **self.overrides)

        scene = physics.make_scene(
            stream("physics"),
            bodies=self.bodies,
            radius=level.radius,
            speed=level.speed,
            gravity=level.gravity,
        )
        T = self.frames
        length = {
            "frames": T + self.future,
            "fps": self.fps,
        }
        length["places_only"] = not (self.labels or pairs)
        action, pushes, breach = np.zeros((T, 2)), None, None
        if self.variant == "pushed":
            action = physics.make_pushes(stream("push"), T)
            pushes = np.pad(action, ((0, self.future), (0, 0)))
        motion = physics.simulate(scene, pushes=pushes, **length)
        if pairs and index % 2:
            clip = physics.Motion(*(x[:T] for x in motion))
            breach = physics.make_breach(
                stream("breach"), scene, clip, self.fps, self.breaches
            )
            motion = physics.simulate(scene, breach=breach, **length)
        motion, later = (physics.Motion(*(x[s] for x in motion)) for s in
                         (slice(T), slice(T, None)))  # fmt: skip
        drawn = self._draw(level, scene, motion, stream)
        if not self.labels:
            return {"video": drawn.video}
        shown = drawn.sprites, drawn.points, drawn.slots, self.size
        more = {"mask": render.body_masks(*shown)} if self.masks else {}
        if self.future:
            more["future_position"] = later.position
            more["future_contact"] = later.contact
        return more | {
            "video": drawn.video,
            "position": motion.position,
            "velocity": motion.velocity,
            "visible": render.visible_share(*shown),
            "shape": scene.shape.astype(np.int32),
            "radius": scene.radius.astype(np.float32),
            "color": drawn.color.astype(np.float32),
            "contact": motion.contact,
            "action": action.astype(np.float32),
            "violation": np.array(breach.kind if breach else 0, np.int32),
            "violation_frame": np.array(breach.frame if breach else -1, np.int32),
        }

    def _draw(self, level, scene, motion, stream):
        """A motion as a Drawing."""
        T, K, size = self.frames, self.bodies, self.size
        span = {"frames": T, "fps": self.fps}
        make_look = levels.patterned_look if level.palettes else levels.flat_look
        look = make_look(stream, level, bodies=K, size=size, **span)
        bodies = render.Sprites(
            outline=render.body_outlines(scene.shape, scene.radius),
            colors=look.pair,
            convex=np.ones(K, bool),
            position=motion.position,
            angle=motion.angle,
            shown=motion.present,
        )
        behind, front = levels.make_distractors(
            stream("distractor"), level, base=levels.mean_color(look.ground), **span
        )
        parts = [behind, bodies, front]
        if level.occluders:
            parts.append(levels.make_occluders(stream("occluder"), level, frames=T))
        sprites = render.stack_sprites(parts)
        points = render.place_sprites(sprites)
        flicker = None
        if level.flicker:
            flicker = levels.make_flicker(stream("flicker"), level, frames=T, size=size)
        first = behind.angle.shape[1]
        slots = range(first, first + K)
        ground = look.ground, look.offset, flicker
        if level.palettes:
            ends = slice(first), slice(first + K, None)
            back, fore = (
                (render.pick_sprites(sprites, part), points[:, part]) for part in ends
            )
            video = render.draw_clip(*ground, *back, size)
            video = painting.paint_bodies(video, scene, motion, *look.paint)
            video = render.draw_over(video, *fore)
        else:
            video = render.draw_clip(*ground, sprites, points, size)
        if level.drift or level.noise:
            gain = render.light_gain(
                stream("light"), amplitude=level.drift, size=size, **span
            )
            noise = None
            if level.noise:
                noise = levels.make_noise(stream("noise"), level, video.shape)
            render.light_clip(video, gain, noise)
        return Drawing(video, sprites, points, slots, look.color)


class Drawing(NamedTuple):
    """A drawn clip, and what its labels are read from."""

    video: np.ndarray  # uint8 [T, size, size, 3]
    sprites: render.Sprites
    points: np.ndarray  # outlines at their places, in frame sides: [T, S, POINTS, 2]
    slots: range  # of the sprites, the bodies
    color: np.ndarray  # of the bodies, 0..1: [K, 3]


class _Key(np.random.bit_generator.ISeedSequence):
    """The two numbers of a Philox key as its seed.

    Philox(key=...) draws a seed from the operating system besides, and does not use it.
    """

    def __init__(self, *words):
        self.words = np.array(words, np.uint64)

    def generate_state(self, n_words, dtype=np.uint32):
        return self.words


def _stream(seed, item, name):
    """The random generator of one stream of one record."""
    counter = [0, 0, 0, STREAMS.index(name)]
    return np.random.Generator(np.random.Philox(_Key(seed, item), counter=counter))


def _check_choice(field, value, known):
    if value not in known:
        raise ValueError(
            f"World.{field} is {value!r}; expected one of {', '.join(known)}"
        )


def _check_integer(field, value, low, high):
    if not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ValueError(
            f"World.{field} is {value!r}; expected an integer, {low} to {high}"
        )
