"""What became of videos and clips: numbers for people and programs, and a contact sheet."""

import collections

import cv2
import numpy as np

from core.data.tfds import Shards
from core.data.video import decode_clip
from core.files import write_json
from core.pictures import caption, encode_png, tile
from core.prepare import clips

NAMED = 5  # examples of each reason
SHEET = 24  # clips
MOMENTS = 4  # of each
HEIGHT = 96  # pixels of each
REPORT, PICTURE = "report.json", "contact_sheet.png"


def report(facts: dict, fates: dict) -> dict:
    """Counts, hours and bytes of a data set, and what was dropped and why."""
    bad = {name: found["bad"] for name, found in facts.items() if found["bad"]}
    known = clips.clips_of(facts)
    dropped = collections.defaultdict(list)
    for clip in known:
        if fates[clip["id"]] not in clips.SPLITS:
            kind, _, more = fates[clip["id"]].partition(": ")
            dropped[kind].append(f"{clip['id']} ({more})")
    kept = {
        split: [clip for clip in known if fates[clip["id"]] == split]
        for split in clips.SPLITS
    }
    return {
        "videos": len(facts),
        "bad_videos": len(bad),
        "clips_cut": len(known),
        "clips_dropped": {kind: len(ids) for kind, ids in dropped.items()},
        "splits": {
            split: {
                "clips": len(some),
                "videos": len({clip["source"] for clip in some}),
                "hours": sum(clip["end"] - clip["start"] for clip in some) / 3600,
                "bytes": sum(clip["bytes"] for clip in some),
            }
            for split, some in kept.items()
        },
        "bad": bad,
        "dropped": {kind: ids[:NAMED] for kind, ids in dropped.items()},
    }


def lines(found: dict) -> list[str]:
    """A report for people."""
    said = [
        f"{found['videos']} videos, {found['bad_videos']} of them bad; "
        f"{found['clips_cut']} clips cut"
    ]
    for split, numbers in found["splits"].items():
        if numbers["clips"]:
            said.append(
                f"{split}: {numbers['clips']} clips of {numbers['videos']} videos, "
                f"{numbers['hours']:.2f} hours, {numbers['bytes'] / 1e6:.1f} MB"
            )
    for kind, count in found["clips_dropped"].items():
        first = found["dropped"][kind][0]
        said.append(f"dropped, {kind}: {count} clips, such as {first}")
    named = list(found["bad"].items())
    said += [f"bad: {name}: {reason}" for name, reason in named[:NAMED]]
    if len(named) > NAMED:
        said.append(f"and {len(named) - NAMED} more, named in {REPORT}")
    return said


def sheet(folder) -> np.ndarray:
    """Clips of a data set in two columns, a row of moments each: [H, W, 3]."""
    examples = Shards(str(folder), "train")
    shown = []
    for index in np.linspace(0, len(examples) - 1, min(SHEET, len(examples))):
        example = examples[int(index)]
        fps = MOMENTS / (example["end"] - example["start"])
        video = bytes(example["video"])
        frames = decode_clip(video, 0.0, fps, MOMENTS, _small)
        label = f" label {example['label']}" if example["label"] >= 0 else ""
        shown.append(caption(tile([frames], pad=2), f"{example['id']}{label}"))
    return tile([shown[i : i + 2] for i in range(0, len(shown), 2)], pad=8)


def _small(height, width):
    size = (max(1, round(width * HEIGHT / height)), HEIGHT)
    return lambda image: cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def write(folder, found: dict):
    """A report and the contact sheet, beside the data set's shards."""
    write_json(folder / REPORT, found)
    (folder / PICTURE).write_bytes(encode_png(sheet(folder)))
