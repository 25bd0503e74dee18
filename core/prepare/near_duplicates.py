"""Near duplicates of clips by perceptual hashes.

A hash has BITS bits in BANDS bands. Hashes that differ in fewer bits than there are bands
agree in at least one band. So only clips that share a band are compared, and the group of
each band is independent of the others.
"""

import cv2
import numpy as np

SIDE = 8
MOMENTS = (1 / 6, 1 / 2, 5 / 6)  # of a clip, whose frames are hashed
BITS = SIDE * SIDE * len(MOMENTS)
BANDS = 16
MOST = 500  # comparisons per clip, for huge groups such as black clips


def fingerprint(small) -> str:
    """The hash of gray frames [T, h, w] in hex. A bit: is the pixel to the right brighter?"""
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
    """The bands of a hash as "NUMBER:HEX"."""
    step = len(print_) // BANDS
    return [f"{k}:{print_[k * step : (k + 1) * step]}" for k in range(BANDS)]


def duplicates_in_group(group, most: int) -> dict[str, str]:
    """{key: smaller key of a clip whose hash differs in at most `most` bits}.

    group: (key, hash) pairs.
    """
    found, group = {}, sorted(group)
    for i, (key, one) in enumerate(group):
        for other, another in group[: min(i, MOST)]:
            if distance(one, another) <= most:
                found[key] = other
                break
    return found


def source_of(key: str) -> str:
    """The name of the video of a clip, from its id NAME#NUMBER."""
    return key.rpartition("#")[0]


def copies_of_whole_videos(keys, copies: dict[str, str]) -> dict[str, str]:
    """{key: other} of the clips of one video, if most of them look like other videos'.

    keys: its clips that move. copies: what `find_duplicates` gives of them. A copy in
    another encoding is found so even where the hashes of some of its clips differ.
    """
    others = [copies[k] for k in keys if k in copies]
    others = [other for other in others if source_of(other) != source_of(keys[0])]
    return dict.fromkeys(keys, min(others)) if 2 * len(others) > len(keys) else {}


def find_duplicates(prints: dict[str, str], most: int) -> dict[str, str]:
    """Duplicates among {key: hash} as {key: smallest key found}; compares within bands."""
    groups = {}
    for key, one in prints.items():
        for band in bands(one):
            groups.setdefault(band, []).append((key, one))
    found = {}
    for group in groups.values():
        for key, other in duplicates_in_group(group, most).items():
            found[key] = min(other, found.get(key, other))
    return found
