"""Physics, rendering and labels of the embedded world."""

import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
from small import ROOT

from core.data.bodies import levels, physics, render
from core.data.bodies.levels import LEVELS
from core.data.bodies.world import World

SHADE = {"texture": 0, "drift": 0, "body_texture": 0, "hue_jitter": 0}
CLIPS = 40


def clips(world, count=CLIPS):
    return [world.load(i) for i in range(count)]


def assert_same(a, b, but=()):
    assert a.keys() == b.keys()
    for name in a.keys() - set(but):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def scenes(count=CLIPS):
    limits = {"radius": (0.08, 0.13), "speed": (0.3, 0.7), "gravity": (0.4, 1.2)}
    for i in range(count):
        yield physics.make_scene(np.random.default_rng(i), bodies=3, **limits)


def energy(scene, motion):
    """Kinetic, rotational and potential energy over the mass of a unit disc: [T]."""
    # Squared radii of gyration for the area of the unit disc, from tables.
    gyration = np.array([1 / 2, np.pi / 6, np.pi / 3 / np.sqrt(3)])[scene.shape]
    mass = scene.radius**2
    moving = (motion.velocity**2).sum(-1) / 2
    turning = gyration * scene.radius**2 * motion.spin**2 / 2
    falling = scene.gravity * (1 - motion.position[..., 1])
    return (mass * (moving + turning + falling)).sum(-1)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variant", ["passive", "pushed", "violation"])
def test_records_have_the_documented_arrays(level, variant):
    T, K, size = 8, 3, 48
    item = World(3, frames=T, size=size, variant=variant, level=level).load(5)
    promised = {
        "video": ((T, size, size, 3), np.uint8),
        "position": ((T, K, 2), np.float32),
        "velocity": ((T, K, 2), np.float32),
        "visible": ((T, K), np.float32),
        "shape": ((K,), np.int32),
        "radius": ((K,), np.float32),
        "color": ((K, 3), np.float32),
        "contact": ((T, K, K + 4), np.bool_),
        "action": ((T, 2), np.float32),
        "violation": ((), np.int32),
        "violation_frame": ((), np.int32),
    }
    assert {k: (v.shape, v.dtype) for k, v in item.items()} == promised
    assert item["shape"].tolist() == [0, 1, 2]
    assert item["video"].std() > 1


def test_any_order_gives_the_same_records():
    world = World(7, level="hard")
    forward = clips(world, 4)
    twin = pickle.loads(pickle.dumps(world))
    for i in (3, 0, 2, 1):
        assert_same(forward[i], twin.load(i, rng=np.random.default_rng(i)))
    assert (forward[0]["video"] != forward[1]["video"]).any()
    assert (forward[0]["video"] != World(8, level="hard").load(0)["video"]).any()
    world.load(len(world) - 1)
    with pytest.raises(IndexError):
        world.load(-1)


def test_another_process_gives_the_same_records():
    program = (
        "import sys, pickle; from core.data.bodies.world import World;"
        "w = World(7, level='hard', variant='pushed'); w.load(11);"
        "sys.stdout.buffer.write(pickle.dumps(w.load(9)))"
    )
    output = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT)
    here = World(7, level="hard", variant="pushed").load(9)
    assert_same(pickle.loads(output), here)


def test_free_bodies_follow_the_parabola():
    checked = 0
    for scene in scenes():
        motion = physics.simulate(scene, frames=8, fps=8)
        time, fall = np.arange(8)[:, None] / 8, np.array([0, scene.gravity])
        for k in range(3):
            free = ~np.logical_or.accumulate(motion.contact[:, k].any(-1))
            v = scene.velocity[k] + fall * time
            x = scene.position[k] + scene.velocity[k] * time + fall * time**2 / 2
            np.testing.assert_allclose(motion.velocity[free, k], v[free], atol=1e-5)
            np.testing.assert_allclose(motion.position[free, k], x[free], atol=1e-5)
            checked += free.sum()
    assert checked > 4 * CLIPS


def test_velocity_is_the_slope_of_position_between_contacts():
    # On a parabola the chord's slope is the mean of the slopes at its ends.
    errors = []
    for item in clips(World(0, level="plain", frames=16)):
        chord = np.diff(item["position"], axis=0) * 8
        slope = (item["velocity"][1:] + item["velocity"][:-1]) / 2
        free = ~item["contact"][1:].any(-1)
        errors.append(np.abs(chord - slope)[free])
    errors = np.concatenate(errors)
    assert np.median(errors) < 1e-6
    # pymunk pushes overlapping bodies apart up to a step after the contact's end.
    assert errors.max() < 2e-3


def test_bodies_stay_inside_apart_and_on_the_move():
    items = clips(World(1, level="plain", frames=16))
    place = np.stack([item["position"] for item in items])
    radius = np.stack([item["radius"] for item in items])[:, None, :, None]
    # A center of mass is never nearer to a wall than the inner radius, 0.77 radii.
    assert (np.minimum(place, 1 - place) > 0.75 * radius).all()
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        gap = np.linalg.norm(place[:, :, i] - place[:, :, j], axis=-1)
        assert (gap > 0.75 * (radius[:, :, i, 0] + radius[:, :, j, 0])).all()
    step = np.linalg.norm(np.diff(place, axis=1), axis=-1)
    assert 0.03 < np.median(step) < 0.08
    touched = np.stack([item["contact"].any((0, 1)) for item in items])
    assert touched[:, :3].any(-1).mean() > 0.5 and (touched.mean(0) > 0.05).all()


def test_contacts_agree_both_ways_and_with_places():
    for item in clips(World(2, level="plain")):
        between = item["contact"][:, :, :3]
        np.testing.assert_array_equal(between, between.swapaxes(1, 2))
        assert not between[:, range(3), range(3)].any() and not item["contact"][0].any()
        reach = np.array([1.0, 1.26, 1.56]) * item["radius"]
        left, right, floor, _ = np.moveaxis(item["contact"][:, :, 3:], -1, 0)
        x, y = np.moveaxis(item["position"], -1, 0)
        far = reach + 0.15  # distance a body may travel in the frame after the contact
        assert (x < far)[left].all() and (x > 1 - far)[right].all()
        assert (y > 1 - far)[floor].all()


@pytest.mark.parametrize("friction, slack", [(0.0, 0.01), (1.0, 0.1)])
def test_energy_does_not_grow(friction, slack):
    # Restitution with friction may add energy to an oblique hit of a spinning corner
    # (Kane's paradox); without friction it may not.
    kept = []
    for scene in scenes(80):
        scene = scene._replace(friction=scene.friction * friction)
        total = energy(scene, physics.simulate(scene, frames=8, fps=8))
        assert total.max() < total[0] * (1 + slack)
        kept.append(total[-1] / total[0])
    assert 0.3 < np.median(kept) < 0.98


def test_elastic_discs_exchange_momentum():
    one, two = np.array([0.3, 0.1]), np.array([-0.4, 0.0])
    scene = physics.Scene(
        shape=np.array([0, 0]),
        radius=np.array([0.1, 0.07]),
        position=np.array([[0.3, 0.5], [0.7, 0.53]]),
        velocity=np.stack([one, two]),
        angle=np.zeros(2),
        spin=np.zeros(2),
        elasticity=np.ones(2),
        friction=np.zeros(2),
        gravity=0.0,
    )
    motion = physics.simulate(scene, frames=8, fps=8)
    assert motion.contact[:, 0, 1].sum() == 1 and not motion.contact[:, :, 2:].any()
    momentum = np.einsum("k,tkd->td", scene.radius**2, motion.velocity)
    np.testing.assert_allclose(momentum, momentum[:1].repeat(8, 0), atol=1e-6)
    total = energy(scene, motion)
    np.testing.assert_allclose(total, total[0], rtol=1e-3)
    assert (motion.velocity[-1] != motion.velocity[0]).all()


def test_drawn_centers_are_the_labeled_positions():
    size = 64
    world = World(4, size=size, level="plain", overrides=SHADE)
    pixels = (np.arange(size) + 0.5) / size
    for item in clips(world, 12):
        ground = np.float32(item["video"][0]).reshape(-1, 3)
        ground = np.median(ground, 0)
        seen = np.float32(item["video"]) - ground
        paint = item["color"] * 255 - ground
        for k in range(3):
            # Share of each pixel in this color, by least squares over all bodies.
            weight = (seen @ np.linalg.pinv(paint))[..., k].clip(0)
            weight *= weight > 0.1
            mass = weight.sum((1, 2))
            x = (weight.sum(1) @ pixels) / mass
            y = (weight.sum(2) @ pixels) / mass
            error = np.stack([x, y], -1) - item["position"][:, k]
            assert np.abs(error).max() < 0.2 / size
            area = np.pi * (item["radius"][k] * size) ** 2
            np.testing.assert_allclose(mass, area, rtol=0.03)


def test_pairs_differ_from_the_violation_on():
    kinds = set()
    for variant in range(CLIPS):
        world = World(5, variant="violation", level="hard")
        lawful, broken = world.load(2 * variant), world.load(2 * variant + 1)
        frame = int(broken["violation_frame"])
        assert lawful["violation"] == 0 and lawful["violation_frame"] == -1
        assert 8 / 3 <= frame <= 16 / 3
        for name in ("video", "position", "velocity", "visible", "contact"):
            np.testing.assert_array_equal(lawful[name][:frame], broken[name][:frame])
        for name in ("shape", "radius", "color", "action"):
            np.testing.assert_array_equal(lawful[name], broken[name])
        assert (lawful["video"][frame:] != broken["video"][frame:]).any()
        kind = int(broken["violation"])
        kinds.add(kind)
        moved = np.linalg.norm(broken["position"] - lawful["position"], axis=-1)
        assert kind == physics.VANISH or moved[frame].max() > 0.005
        if kind == physics.VANISH:
            gone = (broken["visible"][frame:] == 0).all(0)
            assert (lawful["visible"][frame:] == 0).all(0).sum() < gone.sum()
        if kind == physics.TELEPORT:
            assert moved[frame].max() > 0.15
    assert kinds == {physics.VANISH, physics.TELEPORT, physics.PASS_WALL}


def test_a_body_that_passes_a_wall_leaves_the_box():
    items = clips(World(6, variant="violation", level="plain", frames=16), 80)[1::2]
    items = [i for i in items if i["violation"] == physics.PASS_WALL]
    outside = [(np.abs(item["position"][-1] - 0.5) > 0.5).any() for item in items]
    assert len(items) > 4 and np.mean(outside) > 0.5


def test_only_pushed_bodies_are_pushed():
    passive, pushed = World(9, level="plain"), World(9, level="plain", variant="pushed")
    for free, held in zip(clips(passive, 8), clips(pushed, 8), strict=True):
        assert not free["action"].any() and np.abs(held["action"]).max() <= 1
        assert held["action"].any(-1).all()
        np.testing.assert_array_equal(free["position"][0], held["position"][0])
        # Body 0 is pushed right after the frame that carries the action.
        if not (free["contact"][1, 0].any() or held["contact"][1, 0].any()):
            change = held["velocity"][1, 0] - free["velocity"][1, 0]
            np.testing.assert_allclose(
                change, held["action"][0] * physics.PUSH, atol=1e-5
            )
    runs = np.concatenate([i["action"][:, 0] for i in clips(pushed, 40)])
    assert 0.3 < (np.diff(runs) == 0).mean() < 0.6  # held for two frames on average


def test_the_level_does_not_change_the_motion():
    motion = ("position", "velocity", "contact", "radius", "shape", "action")
    plain = World(2, level="plain", variant="pushed").load(3)
    scene = {name: getattr(LEVELS["plain"], name) for name in ("speed", "gravity")}
    scene["radius"] = LEVELS["plain"].radius
    hard = World(2, level="hard", variant="pushed", overrides=scene).load(3)
    for name in motion:
        np.testing.assert_array_equal(plain[name], hard[name])
    assert (plain["video"] != hard["video"]).any()


@pytest.mark.parametrize(
    "knob, value, untouched",
    [
        ("texture", 200.0, ()),
        ("noise", 12.0, ("color", "visible")),
        ("drift", 0.9, ("color", "visible")),
        ("distractors", 9, ("color",)),
        ("distractor_size", (0.1, 0.2), ("color",)),
        ("pan", 0.6, ()),
        ("texture_chroma", 0.1, ()),
        ("texture_cells", (30,), ()),
        ("body_texture", 0.0, ("visible",)),
        ("contrast", 0.3, ("visible",)),
        ("background", (0.0, 5.0), ("visible",)),
        ("saturation", (0.0, 0.1), ("visible",)),
        ("hue_jitter", 0.0, ("visible",)),
    ],
)
def test_each_setting_changes_only_its_part(knob, value, untouched):
    base = World(1, level="hard").load(0)
    other = World(1, level="hard", overrides={knob: value}).load(0)
    assert (base["video"] != other["video"]).mean() > 0.02
    for name in ("position", "velocity", "contact", *untouched):
        np.testing.assert_array_equal(base[name], other[name])


def test_visible_drops_where_something_passes_in_front():
    none = World(3, level="hard", overrides={"distractors": 0})
    many = {"distractors": 12, "distractor_size": (0.15, 0.2)}
    crowd = World(3, level="hard", overrides=many)
    for item in clips(none, 10):
        assert (item["visible"] > 0.97).all()
    shares = np.stack([item["visible"] for item in clips(crowd, 10)])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() < 0.7 and shares.min() < 0.2


def test_hues_identify_bodies_unless_jittered():
    color = [World(0, level="plain").load(i)["color"].argmax(-1) for i in range(20)]
    assert (np.stack(color) == [0, 1, 2]).all()
    color = np.stack([World(0, level="pastel").load(i)["color"] for i in range(20)])
    assert (color.argmax(-1) == [0, 1, 2]).all() and color.min() > 0.45
    color = [World(0, level="hard").load(i)["color"].argmax(-1) for i in range(20)]
    assert (np.stack(color) == [0, 1, 2]).mean() < 0.6


def test_many_bodies_start_apart():
    for i in range(20):
        item = World(0, bodies=8, level="plain").load(i)
        gap = item["position"][0][:, None] - item["position"][0]
        reach = np.array([1.0, 1.2533, 1.555])[item["shape"]] * item["radius"]
        room = np.linalg.norm(gap, axis=-1) - reach[:, None] - reach
        assert (room[~np.eye(8, dtype=bool)] > 0).all()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"variant": "passiv"}, "World.variant is 'passiv'; expected one of passive"),
        ({"level": "easy"}, "World.level is 'easy'; expected one of plain"),
        ({"size": 2}, "World.size is 2; expected an integer"),
        ({"frames": 8.0}, "World.frames is 8.0; expected an integer"),
        ({"fps": 0}, "World.fps is 0; expected"),
        ({"bodies": 0}, "World.bodies is 0; expected"),
        ({"labels": False, "masks": True}, "World.masks is True and future 0; without"),
        (
            {"overrides": {"textur": 3}},
            "no field 'textur'; expected one of radius, speed",
        ),
    ],
)
def test_errors_name_the_field(wrong, words):
    with pytest.raises(ValueError, match=words):
        World(0, **wrong)


def test_an_occluder_hides_bodies_and_changes_nothing_else():
    free = World(3, level="plain")
    behind = World(3, level="plain", overrides={"occluders": 1}, masks=True)
    hidden = 0
    for a, b in zip(clips(free, 20), clips(behind, 20), strict=True):
        for name in ("position", "velocity", "contact", "color"):
            np.testing.assert_array_equal(a[name], b[name])
        # The bar is every column that is gray from top to bottom in all frames.
        gray = np.ptp(b["video"].astype(int), -1).max((0, 1)) <= 3
        bar = gray & (np.abs(a["video"].astype(int) - b["video"]).mean((0, 1, 3)) > 5)
        assert 0.3 < bar.mean() < 0.45
        x = (b["position"][..., 0] * 64).astype(int).clip(0, 63)
        inside = (
            bar[x]
            & bar[np.minimum(x + 9, 63)]
            & bar[np.maximum(x - 9, 0)]
            & (np.abs(b["position"][..., 0] - 0.5) < 0.3)
        )
        assert (b["visible"][inside] < 0.1).all()
        hidden += inside.sum()
        assert not b["mask"][:, :, bar].any()
    assert hidden > 20


def test_masks_show_the_bodies_where_they_are():
    for item in clips(World(2, level="plain", masks=True), 5):
        for k in range(3):
            t, y, x = np.nonzero(item["mask"] == k + 1)
            for frame in range(8):
                at = t == frame
                middle = np.array([x[at].mean(), y[at].mean()]) + 0.5
                place = 64 * item["position"][frame, k]
                assert np.abs(middle - place).max() < 0.6
                area = np.pi * (64 * item["radius"][k]) ** 2
                # OpenCV's fill includes the pixels of the outline, of a triangle at most.
                assert area < at.sum() < area + 0.7 * np.sqrt(12 * np.sqrt(3) * area)


def test_the_future_is_what_a_longer_clip_shows():
    longer = World(5, level="plain", frames=14, variant="passive").load(3)
    item = World(5, level="plain", frames=8, future=6).load(3)
    np.testing.assert_array_equal(item["position"], longer["position"][:8])
    np.testing.assert_array_equal(item["future_position"], longer["position"][8:])
    np.testing.assert_array_equal(item["future_contact"], longer["contact"][8:])


@pytest.mark.parametrize("variant", ["passive", "pushed", "violation"])
def test_without_labels_the_video_is_the_same(variant):
    world = World(5, level="cluttered", variant=variant)
    for i in range(6):
        alone = dataclasses.replace(world, labels=False).load(i)
        assert alone.keys() == {"video"}
        np.testing.assert_array_equal(alone["video"], world.load(i)["video"])


def test_light_and_noise_are_those_of_a_plain_formula():
    """Gain is 1 + level + x ramp + y ramp, noise scaled bytes; then clipped and cut."""
    T, size = 3, 16
    level = dataclasses.replace(LEVELS["cluttered"], noise=40.0)
    video = np.random.default_rng(0).integers(0, 256, (T, size, size, 3), np.uint8)
    rng = np.random.default_rng(2)
    phase, pace = rng.uniform(0, 2 * np.pi, 3), rng.uniform(1, 4, 3)
    swing = np.sin(phase + pace * np.arange(T)[:, None] / 4) * (0.3 / 3)
    ramp = np.linspace(-1, 1, size)
    gain = 1 + swing[:, 0, None, None] + swing[:, 1, None, None] * ramp
    gain = (gain + swing[:, 2, None, None] * ramp[:, None])[..., None]
    raw = np.random.default_rng(3).bytes(video.size)
    noise = (np.frombuffer(raw, np.uint8).reshape(video.shape) - 127.5) * 40 / 73.9
    wanted = np.clip(video * gain + noise, 0, 255)
    found = video.copy()
    span = {"frames": T, "fps": 4, "size": size, "amplitude": 0.3}
    render.light_clip(
        found,
        render.light_gain(np.random.default_rng(2), **span),
        levels.make_noise(np.random.default_rng(3), level, video.shape),
    )
    gap = wanted - found
    assert gap.min() > -1e-3 and gap.max() < 1 + 1e-3 and found.std() > 50


@pytest.mark.parametrize("kind", [physics.PASS_BODY, physics.RISE])
def test_bodies_pass_each_other_or_fall_upward(kind):
    world = World(6, variant="violation", level="plain", frames=12, breaches=(kind,))
    items = clips(world, 40)
    pairs = [p for p in zip(items[::2], items[1::2], strict=True) if p[1]["violation"]]
    pairs = [pair for pair in pairs if pair[1]["violation"] == kind]
    assert len(pairs) > 5
    overlap, turned = [], []
    for lawful, broken in pairs:
        frame = int(broken["violation_frame"])
        np.testing.assert_array_equal(
            lawful["position"][:frame], broken["position"][:frame]
        )
        assert (lawful["position"][frame:] != broken["position"][frame:]).any()
        gaps = []
        for item in (lawful, broken):
            i, j = np.triu_indices(3, 1)
            gap = np.linalg.norm(
                item["position"][:, i] - item["position"][:, j], axis=-1
            )
            # Two bodies are at least as far apart as the radii of discs inside them.
            gaps.append((gap / (0.6 * (item["radius"][i] + item["radius"][j]))).min())
        assert gaps[0] > 1
        overlap.append(gaps[1] < 1)
        change = np.diff(broken["velocity"][frame - 1 :, :, 1], axis=0)
        turned.append(change[0].min() < -0.01)
    assert np.mean(overlap if kind == physics.PASS_BODY else turned) > 0.5
