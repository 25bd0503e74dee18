"""Compile the train step of a config for a machine that is not here: memory, exchanges,
and what its speed may be. Needs requirements-compile.txt."""

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
JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of lines")
OUT = flags.DEFINE_string("out", None, "File to write the JSON to as well")
ALL = flags.DEFINE_bool(
    "all", False, "All configs on all machines they are laid out for"
)
TABLE = flags.DEFINE_string("table", "docs/scaling.md", "Where --all writes its table")


def main():
    # The others' devices are compiled for, not started.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from core import ahead, machines, tables

    if ALL.value:
        return everything()
    if CONFIG.value is None:
        raise ValueError("--config=FILE[:preset] is needed, or --all")
    name = TOPOLOGY.value or CONFIG.value.machine
    if not name:
        raise ValueError("--topology=MACHINE is needed, or a config laid out for one")
    found = ahead.forecast(CONFIG.value, machines.parse(name, SLICES.value))
    text = json.dumps(found, indent=1)
    if OUT.value:
        pathlib.Path(OUT.value).write_text(text + "\n")
    print(text if JSON.value else tables.lines(found))
    return cli.DONE if found["fits"] else cli.USER_ERROR


def everything() -> int:
    """Forecast every config that is laid out for a machine, and write the page."""
    import jax

    from core import ahead, machines, tables

    page, rows = pathlib.Path(TABLE.value), []
    places = config.laid_out("configs")
    for i, place in enumerate(places):
        one = config.load(place)
        begin = time.perf_counter()
        row = ahead.forecast(one, machines.parse(one.machine))
        rows.append({"config": place.split("/")[-1].replace(".py:", " "), **row})
        page.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        page.write_text(tables.markdown(rows))
        print(
            f"{i + 1}/{len(places)} {place}: {row['memory_share']:.0%} of memory, "
            f"{time.perf_counter() - begin:.0f} s",
            flush=True,
        )
        jax.clear_caches()
    return cli.DONE if all(row["fits"] for row in rows) else cli.USER_ERROR


if __name__ == "__main__":
    cli.run(main)
