"""Depth cameras of LeRobot data sets: which features they are, their unit and numbers.

LeRobot 0.6 stores depth in metres or millimetres, as images of 16 or 32 bits, or as 12-bit
gray video: codes 0 to 4095 for the logarithm of depth + shift, or for depth.
"""

import dataclasses
import math

import numpy as np

MOST_CODE = 4095  # 12 bits
METRES, MILLIMETRES = "m", "mm"
DEEP_FORMATS = ("gray9", "gray10", "gray12", "gray14", "gray16")


def details(feature: dict) -> dict:
    """The facts about the video of a feature, without the prefix "video."."""
    known = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return {name.removeprefix("video."): x for name, x in known.items()}


def is_depth(feature: dict) -> bool:
    """Whether a feature is stated to be depth: by its flag, or its gray video format."""
    known = details(feature)
    deep = str(known.get("pix_fmt", "")).startswith(DEEP_FORMATS)
    return bool(known.get("is_depth_map")) or deep


def unit_of(feature: dict) -> str:
    """The stated unit of depth; millimetres, as in LeRobot, for video without; else ""."""
    known = details(feature)
    unit = known.get("depth_unit")
    is_coded = feature["dtype"] == "video" and known.get("is_depth_map")
    return str(unit) if unit else MILLIMETRES if is_coded else ""


@dataclasses.dataclass(frozen=True)
class Depth:
    """Codes of a depth video -> depth: float32 in metres, or uint16 in millimetres.

    least, most, shift: metres. logarithmic: whether codes are of log(depth + shift).
    """

    unit: str
    least: float
    most: float
    shift: float
    logarithmic: bool

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        share = codes.astype(np.float64) / MOST_CODE
        if self.logarithmic:
            low, high = (math.log(x + self.shift) for x in (self.least, self.most))
            depth = np.exp(low + share * (high - low)) - self.shift
        else:
            depth = self.least + share * (self.most - self.least)
        depth = depth.clip(self.least, self.most)
        if self.unit == METRES:
            return depth.astype(np.float32)
        return np.rint(1000 * depth).clip(0, 65535).astype(np.uint16)


def converter(feature: dict):
    """Numbers of a depth video -> depth, with LeRobot's defaults for what is not stated.

    Without the flag is_depth_map the numbers are kept. Raises ValueError for other units.
    """
    known = details(feature)
    if not known.get("is_depth_map"):
        return np.asarray
    unit = unit_of(feature)
    if unit not in (METRES, MILLIMETRES):
        raise ValueError(
            f"depth_unit is {unit!r}; expected {METRES!r} or {MILLIMETRES!r}"
        )
    given = {name: known.get(name) for name in ("depth_min", "depth_max", "shift")}
    usual = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5}
    least, most, shift = (float(usual[k] if x is None else x) for k, x in given.items())
    use_log = known.get("use_log")
    logarithmic = True if use_log is None else bool(use_log)
    if least >= most or (logarithmic and least + shift <= 0):
        raise ValueError(
            f"depth_min {least:g}, depth_max {most:g} and shift {shift:g} do not give a "
            "range of depth"
        )
    return Depth(unit, least, most, shift, logarithmic)
