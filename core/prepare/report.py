"""What became of what was recorded: numbers for people and programs."""

import collections

import numpy as np

from core.base.files import write_json
from core.base.pictures import encode_png
from core.prepare import clips

NAMED = 5  # examples of each reason
REPORT, PICTURE = "report.json", "contact_sheet.png"


def of_clips(facts: dict, fates: dict) -> dict:
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


def lines_of_clips(found: dict) -> list[str]:
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
    return said + lines_of_bad(found["bad"])


def of_steps(facts: dict, fates: dict, form: dict) -> dict:
    """The same of recorded trajectories."""
    named = {split: [] for split in clips.SPLITS}
    dropped = {}
    for name, fate in fates.items():
        if fate in named:
            named[fate].append(facts[name])
        elif not facts[name]["bad"]:
            dropped[name] = fate
    return {
        "recordings": len(facts),
        "bad_recordings": sum(bool(found["bad"]) for found in facts.values()),
        "splits": {
            split: {
                "recordings": len(some),
                "pieces": sum(len(found["pieces"]) for found in some),
                "steps": sum(found["steps"] for found in some),
                "hours": sum(found["seconds"] for found in some) / 3600,
                "bytes": sum(found["bytes"] for found in some),
            }
            for split, some in named.items()
        },
        "form": form,
        "bad": {name: x["bad"] for name, x in facts.items() if x["bad"]},
        "dropped": dropped,
    }


def lines_of_steps(found: dict) -> list[str]:
    """A report of trajectories for people."""
    said = [f"{found['recordings']} recordings, {found['bad_recordings']} of them bad"]
    for split, numbers in found["splits"].items():
        if numbers["recordings"]:
            hours = f", {numbers['hours']:.2f} hours" if numbers["hours"] else ""
            said.append(
                f"{split}: {numbers['steps']} steps of {numbers['recordings']} recordings "
                f"in {numbers['pieces']} pieces{hours}, {numbers['bytes'] / 1e6:.1f} MB "
                "before compression"
            )
    for name, (kind, shape) in found["form"].items():
        said.append(f"  {name}: {kind} {shape}")
    said += [
        f"dropped: {x}: {fate}" for x, fate in list(found["dropped"].items())[:NAMED]
    ]
    return said + lines_of_bad(found["bad"])


def lines_of_bad(bad: dict) -> list[str]:
    said = [f"bad: {name}: {reason}" for name, reason in list(bad.items())[:NAMED]]
    if len(bad) > NAMED:
        said.append(f"and {len(bad) - NAMED} more, named in {REPORT}")
    return said


def write(folder, found: dict, picture: np.ndarray):
    """A report and the contact sheet, beside the data set's shards."""
    write_json(folder / REPORT, found)
    (folder / PICTURE).write_bytes(encode_png(picture))
