"""Forecast a config on a machine that is not available: memory, collectives, step time.

Needs requirements-compile.txt.
"""

import json
import os
import pathlib
import time

from absl import flags

from core.base.places import expand_home
from launch import cli, config

CONFIG = cli.define_config()
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Machine: v5p:4x4x8, v6e:16x16, h100:64x8 (hosts x GPUs); by"
    " default the config's"
)  # fmt: skip
SLICES = flags.DEFINE_integer("slices", 1, "Number of slices, for mesh.replica")
SWEEP = flags.DEFINE_string(
    "sweep",
    None,
    "Compile all combinations of these settings: 'FIELD=VALUE,VALUE FIELD=...'",
)
JSON = flags.DEFINE_bool(
    "json", False, "Print a JSON object per forecast instead of lines of text"
)
OUT = flags.DEFINE_string("out", None, "File to which the JSON is also written")
ALL = flags.DEFINE_bool(
    "all", False, "Forecast all configs on all machines that they name"
)
ONLY = flags.DEFINE_list(
    "only", [], "Limit --all to names with one of these parts; other rows are kept"
)
TABLE = flags.DEFINE_string(
    "table", "docs/scaling.md", "Markdown file that --all writes, with JSON beside it"
)


def main():
    # Nothing runs on the devices that the step is compiled for.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from core import hardware
    from core.perf import forecast, tables

    if ALL.value:
        return forecast_all()
    if CONFIG.value is None:
        raise ValueError("--config=FILE[:preset] is needed, or --all")
    name = TOPOLOGY.value or CONFIG.value.machine
    if not name:
        raise ValueError("--topology=MACHINE is needed, or a preset with @MACHINE")
    machine = hardware.parse(name, SLICES.value)
    if SWEEP.value:
        return run_sweep(machine)
    found = forecast.forecast(CONFIG.value, machine)
    text = json.dumps(found, indent=1)
    if OUT.value:
        expand_home(OUT.value).write_text(text + "\n")
    print(text if JSON.value else tables.lines(found))
    return cli.DONE if found["fits"] else cli.USER_ERROR


def run_sweep(machine) -> int:
    """Forecast every combination of --sweep; print a line for each."""
    from core.perf import forecast, sweep

    variants = config.variants(CONFIG.value, sweep.choices(SWEEP.value))
    lines = []
    for found in sweep.sweep(variants, lambda one: forecast.forecast(one, machine)):
        lines.append(json.dumps(found))
        print(lines[-1] if JSON.value else sweep.row(found), flush=True)
    if OUT.value:
        expand_home(OUT.value).write_text("\n".join(lines) + "\n")
    return cli.DONE


def forecast_all() -> int:
    """Forecast every preset on the machines that its config file names.

    The page and its rows as JSON are written after each forecast.
    """
    import jax

    from core import hardware
    from core.base.files import read_json
    from core.perf import forecast, tables
    from core.runs import run_folder

    page = expand_home(TABLE.value)
    revision = run_folder.revision()  # before files are written, which change it
    data = page.with_suffix(".json")
    rows = read_json(data) if ONLY.value and data.exists() else {}
    places = {
        name_of(place): place for place in config.presets_with_machines("configs")
    }
    chosen = [n for n in places if not ONLY.value or any(o in n for o in ONLY.value)]
    for i, name in enumerate(chosen):
        one, begin = config.load(places[name]), time.perf_counter()
        found = forecast.forecast(one, hardware.parse(one.machine))
        rows[name] = {"revision": revision, **found}
        rows = {name: rows[name] for name in places if name in rows}
        data.write_text(json.dumps(rows, indent=1) + "\n")
        page.write_text(tables.markdown(rows))
        share, seconds = found["memory_share"], time.perf_counter() - begin
        print(
            f"{i + 1}/{len(chosen)} {name}: {share:.0%} of memory, {seconds:.0f} s",
            flush=True,
        )
        jax.clear_caches()
    return cli.DONE if all(row["fits"] for row in rows.values()) else cli.USER_ERROR


def name_of(place: str) -> str:
    """ "configs/jepa.py:v2_l@h200:1x8" -> "jepa v2_l@h200:1x8"."""
    return pathlib.Path(place).name.replace(".py:", " ")


if __name__ == "__main__":
    cli.run(main)
