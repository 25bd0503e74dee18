"""Reads episodes of RLDS in tensorflow-datasets, such as Open X-Embodiment.

An example is an episode. A step has an observation, the action after it, and the reward of
that action.
"""

import dataclasses

import cv2
import numpy as np

from core.base.nested import flatten
from core.data.episodes.action_parts import real_part
from core.data.episodes.observed import read_observation
from core.data.episodes.step_names import check_distinct, log_name, observation_name
from core.data.episodes.steps import LazyImages, mark_cuts, one_hot, shift_rewards
from core.data.formats.lazy_images import image_files
from core.data.records import BadSample, RecordsWrapper
from core.data.tfds import Shards, is_image_feature, open_builder, step_features

FLAGS_OF_STEP = ("reward", "discount", "is_first", "is_last", "is_terminal")
OBSERVATION, ACTION, TIME = "observation", "action", "observation/timestamp"
ORDER = {3: [2, 1, 0], 4: [2, 1, 0, 3]}  # OpenCV's channels as RGB and RGBA


@dataclasses.dataclass(frozen=True)
class Rlds(RecordsWrapper):
    """The episodes of a split as recordings (core/data/episodes/trajectories.py).

    Raises ValueError for actions that are no vector.
    """

    inner: Shards

    def __post_init__(self):
        action_parts(self.kinds)

    @property
    def kinds(self) -> dict:
        """The features of a step by flat name."""
        return flatten(step_features(open_builder(self.inner.place).info.features))

    @property
    def about(self):
        parts = action_parts(self.kinds)
        return {"action": parts} if parts else {}

    def load(self, index):
        rows = [flatten(step) for step in self.inner[index]["steps"]]
        return translate_episode(self.kinds, rows)


def action_parts(kinds: dict) -> list[dict]:
    """The parts of an action (core/data/episodes/action_parts.py) in the order of their names.

    Empty if a shape is not known. Raises ValueError if the action is one integer whose
    number of classes is not known.
    """
    names = sorted(
        name for name in kinds if is_action(name) and not is_text(kinds[name])
    )
    if len(names) == 1 and is_plain_integer(kinds[names[0]]):
        raise ValueError(
            f"{names[0]!r} is one {type_of(kinds[names[0]])} of an unknown number of "
            "classes; make it a ClassLabel with numClasses in features.json"
        )
    if any(None in kinds[name].shape for name in names):
        return []
    return [
        {"classes": count}
        if (count := getattr(kinds[name], "num_classes", None))
        else real_part(kinds[name].shape)
        for name in names
    ]


def translate_episode(kinds: dict, rows: list[dict]) -> dict:
    """The steps of an episode by the names of core/data/episodes/steps.py.

    kinds: features by flat name. rows: one dictionary by flat name per step.
    observation/images/top becomes images_top (episodes/step_names.py); depth, and what is
    beside the observations, become log/NAME; parts of an action are concatenated in the
    order of their names. The first text with "instruction" in its name is the language. The
    discount is not kept.
    """
    if not rows:
        raise BadSample("has no steps")
    actions, found, theirs = [], {}, []
    for name, kind in sorted(kinds.items()):
        if name in FLAGS_OF_STEP:
            continue
        values = [row[name] for row in rows]
        try:
            if is_text(kind):
                ours, x = text_name(name, found), np.array([as_text(v) for v in values])
            elif is_action(name):
                actions.append(action_vector(kind, values))
                continue
            elif name == TIME and type_of(kind).kind == "f":
                ours, x = "time", np.asarray(values, np.float64).reshape(len(rows))
            else:
                x, is_map = read_array(kind, values)
                ours = array_name(name, is_map, pictures=is_picture(x))
        except (BadSample, ValueError, AttributeError) as error:
            raise BadSample(f"{name!r} {error}") from None
        theirs.append((name, ours))
        found[ours] = x
    try:
        check_distinct(theirs)
    except ValueError as error:
        raise BadSample(str(error)) from None
    if not actions:
        raise BadSample("has no 'action'")
    found["action"] = np.concatenate(actions, -1)
    return found | episode_of(rows)


def episode_of(rows) -> dict:
    """Reward and flags; a step that is marked as a first or last one inside of an example
    is one, although an example should be one episode.
    """
    flags = {
        name: np.array([bool(row.get(name, False)) for row in rows])
        for name in ("is_first", "is_last", "is_terminal")
    }
    first, last, terminal = flags.values()
    first[0] = last[-1] = True
    first[1:] |= last[:-1]
    last = mark_cuts(first, last)
    rewards = np.asarray([row.get("reward", 0.0) for row in rows], np.float32)
    if rewards.size != len(rows):
        raise BadSample(
            f"'reward' is {rewards.shape[1:]}; expected one number per step"
        )
    return {
        "reward": shift_rewards(rewards.reshape(-1), last),
        "is_first": first,
        "is_last": last,
        "is_terminal": terminal & last,
    }


def is_action(name: str) -> bool:
    """Whether a feature is a part of the action."""
    return name.partition("/")[0] == ACTION


def type_of(kind) -> np.dtype:
    """The type of a feature's numbers; some features have it as a class."""
    return np.dtype(kind.np_dtype)


def is_text(kind) -> bool:
    """Whether a feature holds text."""
    return type_of(kind).kind in "OSU"


def as_text(value) -> str:
    """A text; raises BadSample for other values."""
    if not isinstance(value, (bytes, str)):
        raise BadSample(f"has {type(value).__name__} values; expected a text per step")
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def is_plain_integer(kind) -> bool:
    """Whether a feature is one integer that is no class with a known number of classes."""
    has_classes = bool(getattr(kind, "num_classes", None))
    return type_of(kind).kind in "iu" and kind.shape == () and not has_classes


def is_picture(x) -> bool:
    """Whether an array is pictures."""
    return isinstance(x, LazyImages) or x.dtype == np.uint8


def text_name(name: str, found: dict) -> str:
    """The array name of a text."""
    if "instruction" in name and "language" not in found:
        return "language"
    return log_name(name.removeprefix(f"{OBSERVATION}/"))


def array_name(name: str, is_map: bool, *, pictures: bool) -> str:
    """The array name of a feature that is no part of an action."""
    inside = name.removeprefix(f"{OBSERVATION}/")
    if name == OBSERVATION:
        inside = "image" if pictures else "state"
    elif inside == name:  # beside the observations
        is_map = True
    return log_name(inside) if is_map else observation_name(inside)


def read_array(kind, values):
    """(array [T, ...] or LazyImages, whether it is a map) of a feature."""
    if not is_image_feature(kind):
        return read_observation(values)
    is_map = type_of(kind) != np.uint8
    if not is_map and kind.shape[-1] == 3:
        return image_files(values), False

    def decode(part):
        return np.stack([decode_image(kind, x) for x in values[part]])

    if is_map:
        return LazyImages(len(values), decode, depth=True), True
    return decode(slice(None)), False  # gray or with transparency, which few have


def decode_image(kind, file: bytes) -> np.ndarray:
    """An image in its own type and channels, [H, W, C]. Raises BadSample.

    One number of float32 per pixel is stored as the four bytes of a pixel.
    """
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise BadSample("not an image that can be decoded")
    image = image.reshape(*image.shape[:2], -1)
    image = image[..., ORDER.get(image.shape[-1], [0])]
    expected, is_real = (type_of(kind), kind.shape[-1]), type_of(kind) == np.float32
    if is_real and (image.dtype, image.shape[-1]) == (np.uint8, 4):
        image = np.ascontiguousarray(image).view(np.float32)
    if (image.dtype, image.shape[-1]) != expected:
        raise BadSample(
            f"image is {image.dtype} with {image.shape[-1]} channels; features.json says "
            f"{expected[0]} with {expected[1]}"
        )
    return image


def action_vector(kind, values) -> np.ndarray:
    """A part of an action as float32 [T, n]; classes are one-hot."""
    if count := getattr(kind, "num_classes", None):
        return one_hot(values, count)
    x = np.asarray(values)
    if x.dtype.kind not in "biuf":
        raise BadSample(f"has {x.dtype} values; expected numbers")
    return x.reshape(len(values), -1).astype(np.float32)
