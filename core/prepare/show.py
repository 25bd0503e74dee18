"""Pictures of any data set: its contents, and a batch as a method reads it."""

import numpy as np

from core.base.pictures import PAPER, caption, tile
from core.config import load_method
from core.data import source_names
from core.data.clips import View
from core.data.records import explain
from core.method import open_source
from core.prepare import contact_sheet

CLIPS, FRAMES = 16, 4  # clips of a sheet; frames of each, a second apart
VIEW = View(frames=FRAMES, fps=1.0, size=96, kind="center")


def show(text: str, config=None) -> np.ndarray:
    """A contact sheet of each data set in a name, and a batch as `config` reads it.

    text: a name for core/data/source_names.py. Sheets show labels, instructions and
    actions; the batch shows what the method adds, such as masks. Returns [H, W, 3].
    Raises ValueError if there is nothing to draw without a config.
    """
    sheets = [
        [draw_dataset(name)]
        for _, name in source_names.mixture_terms(text)
        if name != source_names.WORLD
    ]
    if config is not None:
        sheets.append([draw_batch(text, config)])
    if not sheets:
        raise ValueError(
            f"{text} can only be drawn as a method reads it; add --config=FILE"
        )
    return tile(sheets, pad=16)


def draw_dataset(name: str) -> np.ndarray:
    """A contact sheet of one data set; clips that cannot be read show the reason."""
    if source_names.is_trajectories(name):
        return contact_sheet.draw_recordings(source_names.recordings(name))
    records = source_names.videos(name, "", VIEW, None)
    shown = []
    for index in np.linspace(0, len(records) - 1, min(CLIPS, len(records))).astype(int):
        try:
            item = records.load(int(index), np.random.default_rng(0))
            label = f", label {item['label']}" if "label" in item else ""
            shown.append(
                caption(tile([item["video"]], pad=2), records.name(index) + label)
            )
        except Exception as error:  # noqa: BLE001, shown instead
            blank = np.full((VIEW.size, FRAMES * (VIEW.size + 2), 3), PAPER, np.uint8)
            shown.append(caption(blank, f"{records.name(index)}: {explain(error)}"))
    return contact_sheet.in_two_columns(shown)


def draw_batch(text: str, config) -> np.ndarray:
    """The first training batch of a config with this data. Raises ValueError if the method
    reads no data set or draws no batch.
    """
    if "data" not in config:
        raise ValueError(f"{config.method} reads no data set")
    config.data.source, config.data.workers = text, 0
    method = load_method(config)
    if method.tools.draw is None:
        raise ValueError(f"{config.method} cannot draw a batch")
    with open_source(method) as source:
        return method.tools.draw(source.next())
