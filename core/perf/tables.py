"""Forecasts as Markdown tables and as lines of text."""

import math

GIB = 2**30

INTRO = """\
# Forecasts for machines that are not available

Every row is the train step of a shipped config, compiled ahead of time for the machine
named. One command makes all of them and needs no accelerator:

```
pip install -r requirements-compile.txt
python -m launch.compile --all
```

- **Batch** counts examples: clips, images, or windows of trajectories.
- **Memory** is what the compiler reserves on one device: the fields of the state, and
  temporaries (activations, gathered weights, gradients). A config may use 90% of a device.
- **FLOPs** are useful ones, counted from shapes: matrix products and convolutions, the
  backward pass twice the forward pass. Recomputation does not count for MFU but takes time.
- **Sent** is what one device sends in a step: the collectives of the compiled program, times
  the trip counts of their loops. **Least** is the arithmetic minimum for that mesh: weights
  gathered as often as the program needs them, gradients reduce-scattered once and
  all-reduced once.
- **Step** is arithmetic with published rates (core/hardware.py); nothing is timed. *Bound*
  is the longest of compute, memory traffic, links and network, as if they overlapped
  fully; *serial* is their sum, as if nothing overlapped. A good run lies between.
- **Weak scaling** adds devices with constant work per device. Only the all-reduce of
  gradients grows.
"""


def markdown(rows: dict[str, dict]) -> str:
    """A Markdown page of forecasts.

    rows: config name -> what `forecast.forecast` returns. The page has tables of steps,
    memory, collectives and weak scaling.
    """
    rows = [{"config": name, **row} for name, row in rows.items()]
    parts = [
        INTRO,
        "## Steps\n",
        step_table(rows),
        "## Memory of a device\n",
        memory_table(rows),
        "## Collectives of a step\n",
        collective_table(rows),
        "## Weak scaling\n",
        scaling_table(rows),
    ]
    return "\n".join(parts)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def mesh_text(row) -> str:
    """The axes of a forecast's mesh: "data 2 fsdp 4"."""
    return " ".join(f"{k} {n}" for k, n in row["mesh"].items()) or "one device"


def step_table(rows) -> str:
    """Batch, FLOPs, step times and MFU; what to change if a step does not fit."""
    head = ["config", "mesh", "batch a device", "PFLOP a step"]
    head += ["step s, bound", "serial", "MFU, bound", "serial", "dominated by"]
    found = []
    for row in rows:
        each = row["batch"] / row["devices"]
        line = [row["config"], mesh_text(row), f"{each:g} in {row['accumulate']}"]
        line += [f"{row['flops_useful'] / 1e15:.3g}"]
        if "seconds" in row:
            line += [f"{row['step_seconds_bound']:.3g}"]
            line += [f"{row['step_seconds_serial']:.3g}"]
            line += [f"{row['mfu_bound']:.0%}", f"{row['mfu_serial']:.0%}"]
            line += [row["dominated_by"]]
        else:
            line += [row["cure"], "", "", "", ""]
        found.append(line)
    return table(head, found)


def memory_table(rows) -> str:
    """GiB on a device: fields of the state over 1 MiB, temporaries, total."""
    fields = dict.fromkeys(name for row in rows for name in row["state_bytes"])
    fields = [
        x for x in fields if any(r["state_bytes"].get(x, 0) > 2**20 for r in rows)
    ]
    head = ["config", *fields, "temporaries", "all", "of the device"]
    found = []
    for row in rows:
        sizes = [row["state_bytes"].get(name) for name in fields]
        sizes += [row.get("temporary_bytes"), row["peak_bytes"]]
        line = [row["config"]]
        line += ["" if size is None else f"{size / GIB:.2f}" for size in sizes]
        found.append([*line, f"{row['memory_share']:.0%}"])
    return table(head, found)


def collective_table(rows) -> str:
    """MiB that a device sends, by kind and axes, and against the lower bound."""
    head = ["config", "kind", "along", "times", "sent MiB", "least MiB", "sent / least"]
    found = []
    for row in rows:
        least = row.get("least_bytes", {})
        kinds = [x for x in row.get("collectives", ()) if x["bytes"] > 2**20]
        for one in kinds:
            size = f"{one['bytes'] / 2**20:.0f}"
            along = "+".join(one["axes"])
            line = [row["config"], one["kind"], along, str(one["count"]), size]
            found.append([*line, "", ""])
        if least:
            sent = sum(row["sent_bytes"].values()) / 2**20
            line = [row["config"], "all", "", "", f"{sent:.0f}"]
            line += [f"{sum(least.values()) / 2**20:.0f}"]
            found.append([*line, f"{row['sent_over_least']:.2f}"])
    return table(head, found)


def scaling_table(rows) -> str:
    """MFU by number of devices, serial to bound, a line per config."""
    counts = [8 * 2**i for i in range(10)]
    head = ["config", *map(str, counts)]
    found = []
    for row in rows:
        points = {x["devices"]: x for x in row.get("weak_scaling", ())}
        if not points:
            continue
        ideal = row["flops_useful"] / row["devices"] / row["device_flops"]
        line = [row["config"]]
        for count in counts:
            point = points.get(count)
            pair = [
                ideal / point[f"step_seconds_{kind}"] if point else math.nan
                for kind in ("serial", "bound")
            ]
            line.append(f"{pair[0]:.0%} to {pair[1]:.0%}" if point else "")
        found.append(line)
    return "MFU from 8 to 4096 devices, serial to bound.\n\n" + table(head, found)


def lines(row: dict) -> str:
    """One forecast as text, a name and a value per line."""
    found = {
        "machine": f"{row['machine']}, {row['devices']} device{'s' * (row['devices'] > 1)}",
        "mesh": mesh_text(row),
        "batch": f"{row['batch']}, {row['batch'] / row['devices']:g} a device",
        "memory": f"{row['peak_bytes'] / GIB:.2f} GiB of {row['device_bytes'] / GIB:.1f}, "
        f"{row['memory_share']:.0%}",
        "state": ", ".join(
            f"{k} {n / GIB:.2f} GiB" for k, n in row["state_bytes"].items() if n > 2**20
        ),
        "replicated": ", ".join(row["replicated"]) or "nothing large",
    }
    if not row["fits"]:
        found["does not fit"] = row["cure"]
    if "seconds" in row:
        found |= {
            "temporaries": f"{row['temporary_bytes'] / GIB:.2f} GiB",
            "useful FLOPs": f"{row['flops_useful']:.4g} a step, "
            f"{row['flops_executed']:.4g} with what is recomputed",
            "busy seconds": ", ".join(
                f"{k} {s:.3g}" for k, s in row["seconds"].items()
            ),
            "step": f"{row['step_seconds_bound']:.3g} s if all overlaps, "
            f"{row['step_seconds_serial']:.3g} s if nothing does",
            "MFU": f"{row['mfu_bound']:.0%} to {row['mfu_serial']:.0%}, dominated by "
            f"{row['dominated_by']}",
        }
        for one in row["collectives"]:
            name = f"{one['kind']} along {'+'.join(one['axes'])}"
            found[name] = f"{one['count']} times, {one['bytes'] / 2**20:.1f} MiB sent"
        if row["least_bytes"]:
            found["sent over least"] = f"{row['sent_over_least']:.3f}"
    width = max(map(len, found))
    return "\n".join(f"{name:{width}}  {value}" for name, value in found.items())
