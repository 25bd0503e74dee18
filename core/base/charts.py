"""Line charts as SVG text, without a plotting library."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Curve = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 420, 260, 52, 28, 16, 40
LEGEND = 24
COLORS = ("#1b6ca8", "#d1495b", "#edae49", "#2e933c", "#7d5ba6", "#555555")


class Panel(NamedTuple):
    """A chart. lines: name -> curves; their mean is drawn thick where their x agree."""

    title: str
    x: str
    lines: Mapping[str, Sequence[Curve]]


def line_charts(panels: Sequence[Panel], *, columns: int) -> str:
    """SVG of panels side by side, with one legend; a name has the same color in all.

    Points that are not finite are left out.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    rows = math.ceil(len(panels) / columns)
    W, H = columns * WIDTH, rows * HEIGHT + LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{W}" height="{H}" fill="white"/>',
    ]
    for i, name in enumerate(names):
        x = LEFT + i * (W - LEFT) / len(names)
        parts.append(
            f'<rect x="{x:.0f}" y="8" width="14" height="4" fill="{color[name]}"/>'
        )
        parts.append(text(x + 20, 15, name))
    for i, panel in enumerate(panels):
        corner = i % columns * WIDTH, LEGEND + i // columns * HEIGHT
        parts.append(f'<g transform="translate({corner[0]} {corner[1]})">')
        parts += [*draw(panel, color), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def draw(panel: Panel, color: Mapping[str, str]) -> list[str]:
    """Elements of one chart of WIDTH x HEIGHT."""
    lines = {
        name: [[p for p in curve if all(map(math.isfinite, p))] for curve in curves]
        for name, curves in panel.lines.items()
    }
    points = [p for curves in lines.values() for curve in curves for p in curve]
    if not points:
        return [text(LEFT, TOP, f"{panel.title}: nothing known")]
    (left, right, _), (low, high, step) = (
        ticks([p[i] for p in points]) for i in (0, 1)
    )
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(p):
        x = LEFT + wide * (p[0] - left) / (right - left)
        return x, TOP + tall * (high - p[1]) / (high - low)

    found = [text(LEFT, TOP - 8, panel.title)]
    found.append(text(LEFT + wide / 2, HEIGHT - 6, panel.x, "middle"))
    for k in range(round((high - low) / step) + 1):
        y = place((left, low + k * step))[1]
        found.append(
            f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        found.append(text(LEFT - 6, y + 4, f"{low + k * step:.3g}", "end"))
    left, right, step = ticks([p[0] for p in points])
    for k in range(round((right - left) / step) + 1):
        x = place((left + k * step, low))[0]
        found.append(text(x, TOP + tall + 16, f"{left + k * step:.3g}", "middle"))
    for name, curves in lines.items():
        for curve in curves:
            found.append(polyline(map(place, curve), color[name], 0.8, 0.4))
        found.append(polyline(map(place, mean(curves)), color[name], 2.2, 1))
    return found


def mean(curves: Sequence[Curve]) -> Curve:
    """Point by point, up to the shortest of the curves."""
    rows = [curve for curve in curves if curve]
    return [
        (sum(x for x, _ in points) / len(rows), sum(y for _, y in points) / len(rows))
        for points in zip(*rows, strict=False)
    ]


def ticks(values: Sequence[float]) -> tuple[float, float, float]:
    """(low, high, step): the range of `values` in round steps, four to eight of them."""
    low, high = min(values), max(values)
    span = (high - low) or max(abs(high), 1.0)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if span / s <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, max(last, first + 1) * step, step


def polyline(points, color: str, width: float, opacity: float) -> str:
    """One curve through points in pixels."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" '
        f'opacity="{opacity}"/>'
    )


def text(x: float, y: float, what: str, anchor: str = "start") -> str:
    """A line of text."""
    what = html.escape(what)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{what}</text>'
