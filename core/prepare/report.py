"""Reports of a prepared data set: counts of what was kept, dropped and bad."""

import collections

import numpy as np

from core.base.files import write_json
from core.base.pictures import encode_png
from core.data.files.file_lists import describe_passed_over
from core.prepare import video_clips

NAMED = 5  # examples of each reason that are named
REPORT, PICTURE = "report.json", "contact_sheet.png"


def clip_report(facts: dict, splits: dict, passed_over) -> dict:
    """Counts, hours and bytes of clips per split, and what was dropped and why.

    facts: what video_clips.cut_videos returns; splits: assign_clip_splits. passed_over:
    number of other files by suffix.
    """
    bad = {name: found["bad"] for name, found in facts.items() if found["bad"]}
    known = video_clips.all_clips(facts)
    dropped = collections.defaultdict(list)
    for clip in known:
        if splits[clip["id"]] not in video_clips.SPLITS:
            kind, _, more = splits[clip["id"]].partition(": ")
            dropped[kind].append(f"{clip['id']} ({more})")
    kept = {
        split: [clip for clip in known if splits[clip["id"]] == split]
        for split in video_clips.SPLITS
    }
    return {
        "videos": len(facts),
        "passed_over": dict(passed_over),
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


def clip_report_lines(found: dict) -> list[str]:
    """A clip report as lines of text."""
    lines = [
        f"{found['videos']} videos, {found['bad_videos']} of them bad; "
        f"{found['clips_cut']} clips cut"
    ]
    if found["passed_over"]:
        text = describe_passed_over(found["passed_over"])
        lines.append(f"passed over by suffix: {text}")
    for split, numbers in found["splits"].items():
        if numbers["clips"]:
            lines.append(
                f"{split}: {numbers['clips']} clips of {numbers['videos']} videos, "
                f"{numbers['hours']:.2f} hours, {numbers['bytes'] / 1e6:.1f} MB"
            )
    for kind, count in found["clips_dropped"].items():
        first = found["dropped"][kind][0]
        lines.append(f"dropped, {kind}: {count} clips, such as {first}")
    return lines + bad_lines(found["bad"])


def trajectory_report(facts: dict, splits: dict, form: dict) -> dict:
    """Counts, hours and bytes of recordings per split, and what was dropped and why.

    facts: what cut_trajectories.cut_recordings returns; splits and form:
    assign_recording_splits.
    """
    named = {split: [] for split in video_clips.SPLITS}
    dropped = {}
    for name, split in splits.items():
        if split in named:
            named[split].append(facts[name])
        elif not facts[name]["bad"]:
            dropped[name] = split
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


def trajectory_report_lines(found: dict) -> list[str]:
    """A trajectory report as lines of text."""
    lines = [f"{found['recordings']} recordings, {found['bad_recordings']} of them bad"]
    for split, numbers in found["splits"].items():
        if numbers["recordings"]:
            hours = f", {numbers['hours']:.2f} hours" if numbers["hours"] else ""
            lines.append(
                f"{split}: {numbers['steps']} steps of {numbers['recordings']} recordings "
                f"in {numbers['pieces']} pieces{hours}, {numbers['bytes'] / 1e6:.1f} MB "
                "before compression"
            )
    for name, (kind, shape) in found["form"].items():
        lines.append(f"  {name}: {kind} {shape}")
    lines += [
        f"dropped: {x}: {why}" for x, why in list(found["dropped"].items())[:NAMED]
    ]
    return lines + bad_lines(found["bad"])


def bad_lines(bad: dict) -> list[str]:
    """Lines with the first bad recordings and the number of the others."""
    lines = [f"bad: {name}: {reason}" for name, reason in list(bad.items())[:NAMED]]
    if len(bad) > NAMED:
        lines.append(f"and {len(bad) - NAMED} more, named in {REPORT}")
    return lines


def write_report(folder, found: dict, picture: np.ndarray):
    """Write a report and the contact sheet beside the shards of the data set."""
    write_json(folder / REPORT, found)
    (folder / PICTURE).write_bytes(encode_png(picture))
