"""Near duplicates by perceptual hashes: which clips look like one with a smaller name.

A hash has BITS bits, cut into BANDS; hashes that differ in fewer bits than there are
bands agree in one band at least. So only clips that share a band are compared, and each
band's group can be looked at alone, here or on another machine.
"""

import cv2
import numpy as np

SIDE = 8
MOMENTS = (1 / 6, 1 / 2, 5 / 6)  # of a clip, at which it is looked at
BITS = SIDE * SIDE * len(MOMENTS)
BANDS = 16
MOST = 500  # clips of a group that each is compared with, or black ones take for ever


def fingerprint(small) -> str:
    """The hash of gray frames [T, h, w] in hex: where brightness rises to the right."""
    bits = []
    for moment in MOMENTS:
        frame = small[int(moment * len(small))]
        tiny = cv2.resize(frame, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
        bits.append(tiny[:, 1:] > tiny[:, :-1])
    return np.packbits(np.stack(bits)).tobytes().hex()


def distance(a: str, b: str) -> int:
    """Bits in which two hashes differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()


def bands(print_: str) -> list[str]:
    """The pieces of a hash, each with its place."""
    step = len(print_) // BANDS
    return [f"{k}:{print_[k * step : (k + 1) * step]}" for k in range(BANDS)]


def twins(group, most: int) -> dict[str, str]:
    """{key: that of a clip before it} for clips (key, hash) with at most `most` bits apart."""
    found, group = {}, sorted(group)
    for i, (key, one) in enumerate(group):
        for other, another in group[: min(i, MOST)]:
            if distance(one, another) <= most:
                found[key] = other
                break
    return found


def all_twins(prints: dict[str, str], most: int) -> dict[str, str]:
    """`twins` of {key: hash}, by way of the bands; the first one of each clip."""
    groups = {}
    for key, one in prints.items():
        for band in bands(one):
            groups.setdefault(band, []).append((key, one))
    found = {}
    for group in groups.values():
        for key, other in twins(group, most).items():
            found[key] = min(other, found.get(key, other))
    return found
