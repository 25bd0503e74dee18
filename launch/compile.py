"""Compile the train step of a config for a machine that is not here: memory, exchanges,
and what its speed may be. Needs requirements-compile.txt.
"""

import json
import os
import pathlib
import time

from absl import flags

from launch import cli, config

CONFIG = cli.define_config()
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Machine: v5p:4x4x8, v6e:16x16, h100:64x8 (hosts x GPUs); the"
    " config's by default"
)  # fmt: skip
SLICES = flags.DEFINE_integer("slices", 1, "Slices of it, for mesh.replica")
SWEEP = flags.DEFINE_string(
    "sweep", None, "Combinations of settings to compile: FIELD=VALUE,VALUE FIELD=..."
)
JSON = flags.DEFINE_bool("json", False, "Print JSON, an object a forecast, not lines")
OUT = flags.DEFINE_string("out", None, "File to write the JSON to as well")
ALL = flags.DEFINE_bool(
    "all", False, "All configs on all machines they are laid out for"
)
ONLY = flags.DEFINE_list(
    "only", [], "Parts of names that --all is limited to; other rows stay as they are"
)
TABLE = flags.DEFINE_string("table", "docs/scaling.md", "Where --all writes its table")


def main():
    # The others' devices are compiled for, not started.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from core import hardware
    from core.perf import forecast, tables

    if ALL.value:
        return everything()
    if CONFIG.value is None:
        raise ValueError("--config=FILE[:preset] is needed, or --all")
    name = TOPOLOGY.value or CONFIG.value.machine
    if not name:
        raise ValueError("--topology=MACHINE is needed, or a config laid out for one")
    machine = hardware.parse(name, SLICES.value)
    if SWEEP.value:
        return swept(machine)
    found = forecast.forecast(CONFIG.value, machine)
    text = json.dumps(found, indent=1)
    if OUT.value:
        pathlib.Path(OUT.value).write_text(text + "\n")
    print(text if JSON.value else tables.lines(found))
    return cli.DONE if found["fits"] else cli.USER_ERROR


def swept(machine) -> int:
    """Forecast the config with every combination of --sweep, a line each."""
    from core.perf import forecast, sweep

    variants = config.variants(CONFIG.value, sweep.choices(SWEEP.value))
    lines = []
    for found in sweep.sweep(variants, lambda one: forecast.forecast(one, machine)):
        lines.append(json.dumps(found))
        print(lines[-1] if JSON.value else sweep.row(found), flush=True)
    if OUT.value:
        pathlib.Path(OUT.value).write_text("\n".join(lines) + "\n")
    return cli.DONE


def everything() -> int:
    """Forecast every config that is laid out for a machine, and write the page.

    It is written after each, with its rows as JSON beside it.
    """
    import jax

    from core import hardware
    from core.perf import forecast, tables
    from core.runs import run_folder

    page = pathlib.Path(TABLE.value)
    kept, revision = (
        page.with_suffix(".json"),
        run_folder.revision(),
    )  # before it writes
    rows = run_folder.read_config(kept) if ONLY.value and kept.exists() else {}
    places = {name_of(place): place for place in config.laid_out("configs")}
    chosen = [n for n in places if not ONLY.value or any(o in n for o in ONLY.value)]
    for i, name in enumerate(chosen):
        one, begin = config.load(places[name]), time.perf_counter()
        found = forecast.forecast(one, hardware.parse(one.machine))
        rows[name] = {"revision": revision, **found}
        rows = {name: rows[name] for name in places if name in rows}
        kept.write_text(json.dumps(rows, indent=1) + "\n")
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
