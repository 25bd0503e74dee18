"""The page of forecasts: rows are layouts of presets, all within bounds."""

import json

import pytest
from small import ROOT

from core.perf import forecast, tables
from launch.compile import name_of
from launch.config import presets_with_machines

ROWS = json.loads((ROOT / "docs" / "scaling.json").read_text())


def test_every_layout_has_its_row_and_the_page_shows_them():
    places = [name_of(place) for place in presets_with_machines("configs")]
    assert list(ROWS) == places
    assert (ROOT / "docs" / "scaling.md").read_text() == tables.markdown(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_layout_fits_and_sends_little_more_than_it_must(name):
    row = ROWS[name]
    assert row["fits"] and row["memory_share"] <= forecast.FULL
    assert not row["replicated"]
    assert row.get("sent_over_least", 1.0) <= 1.2
