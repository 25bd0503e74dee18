"""Pictures of any data set: what is in it, and what a method makes of it."""

import numpy as np

from core.base.pictures import PAPER, caption, tile
from core.config import load_method
from core.data import source_names
from core.data.clips import View
from core.data.records import explain
from core.method import open_source
from core.prepare import contact_sheet

CLIPS, MOMENTS = 16, 4  # and of each, a second apart
LOOK = View(frames=MOMENTS, fps=1.0, size=96, kind="center")


def show(text: str, config=None) -> np.ndarray:
    """A contact sheet of each data set of a name, and a batch of them as `config` reads it.

    Labels, instructions, actions as arrows and, in the batch, all that the method adds.
    """
    sheets = [
        [sheet_of(name)]
        for _, name in source_names.mixture_terms(text)
        if name != source_names.WORLD
    ]
    if config is not None:
        sheets.append([batch_of(text, config)])
    if not sheets:
        raise ValueError(f"{text} is drawn for a method; say for which with --config")
    return tile(sheets, pad=16)


def sheet_of(name: str) -> np.ndarray:
    if source_names.is_trajectories(name):
        return contact_sheet.of_steps(source_names.recordings(name))
    records = source_names.videos(name, "", LOOK, None)
    shown = []
    for index in np.linspace(0, len(records) - 1, min(CLIPS, len(records))).astype(int):
        try:
            item = records.load(int(index), np.random.default_rng(0))
            label = f", label {item['label']}" if "label" in item else ""
            shown.append(
                caption(tile([item["video"]], pad=2), records.name(index) + label)
            )
        except Exception as error:  # noqa: BLE001, shown instead
            nothing = np.full(
                (LOOK.size, MOMENTS * (LOOK.size + 2), 3), PAPER, np.uint8
            )
            shown.append(caption(nothing, f"{records.name(index)}: {explain(error)}"))
    return contact_sheet.in_columns(shown)


def batch_of(text: str, config) -> np.ndarray:
    """The first batch that the method of a config is given of this data."""
    if "data" not in config:
        raise ValueError(f"{config.method} reads no data set")
    config.data.source, config.data.workers = text, 0
    method = load_method(config)
    if method.tools.draw is None:
        raise ValueError(f"{config.method} has no picture of what it reads")
    with open_source(method) as source:
        return method.tools.draw(source.next())
