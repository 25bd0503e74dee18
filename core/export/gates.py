"""Gates of exports: limits on findings, and no regression against a promoted export."""

import fnmatch
import math
import operator
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from core.base.files import read_json
from core.base.names import nearest
from core.base.text import short
from core.export import artifacts
from core.runs import lineage, restore

SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
GATE = re.compile(r"\s*([^.\s]+)\.(\S+?)\s*(>=|<=|>|<)\s*(\S+)\s*")
# Words of a metric's name that say which values are better.
LOWER = {"loss", "error", "mse", "rmse", "mae", "l1", "perplexity"}
HIGHER = {"accuracy", "r2", "auc", "auroc", "score", "return", "success", "psnr"}


class Gate(NamedTuple):
    """`EVAL.METRIC SIGN LIMIT`: a finding that an export demands."""

    evaluation: str
    metric: str
    sign: str
    limit: float

    def __str__(self):
        return f"{self.evaluation}.{self.metric}{self.sign}{self.limit:g}"


def parse_gates(texts: Iterable[str]) -> list[Gate]:
    """The gates of --require, several with commas between. Raises ValueError."""
    return [parse_gate(part) for text in texts for part in text.split(",")]


def parse_gate(text: str) -> Gate:
    """One gate. Raises ValueError for other text, and for limits that are no numbers."""
    match = GATE.fullmatch(text)
    try:
        limit = float(match[4]) if match else math.nan
    except ValueError:
        limit = math.nan
    if match is None or math.isnan(limit):
        raise ValueError(
            f"--require is {text!r}; expected EVAL.METRIC, one of {', '.join(SIGNS)}, and a "
            "number, such as probe.trained/position>=0.9"
        )
    return Gate(match[1], match[2], match[3], limit)


class Evaluated(NamedTuple):
    """What is recorded of a checkpoint: its newest evaluations, and those of other weights.

    newest: evaluation -> line. older: evaluation -> time of the newest line of this step
    that is of other weights. damaged: a sentence per line that cannot be read.
    """

    newest: dict[str, lineage.Entry]
    older: dict[str, str]
    damaged: list[str]

    def numbers(self) -> dict[str, float]:
        """ "EVAL.METRIC" -> value of all newest evaluations."""
        return {
            f"{name}.{metric}": float(value)
            for name, line in self.newest.items()
            for metric, value in line["findings"].items()
        }

    def intervals(self) -> dict[str, list[float]]:
        """ "EVAL.METRIC" -> [low, high], of metrics that have an interval."""
        return {
            f"{name}.{metric}": [float(x) for x in ends]
            for name, line in self.newest.items()
            for metric, ends in line.get("intervals", {}).items()
        }


def find_evaluations(opened: restore.Opened, about: lineage.Entry) -> Evaluated:
    """The evaluations in `opened.lineage`; about: `lineage.subject` of its checkpoint."""
    newest, older, damaged = {}, {}, []
    for line in lineage.read(opened.lineage):
        if isinstance(line, str):
            damaged.append(line)
        elif line["kind"] == lineage.EVALUATION and line["step"] == about["step"]:
            if lineage.of_same_weights(line, about):
                newest[line["evaluation"]] = line
            else:
                older[line["evaluation"]] = line["time"]
    return Evaluated(newest, older, damaged)


def check_gates(
    gates: Sequence[Gate], found: Evaluated, opened: restore.Opened
) -> None:
    """Raise ValueError with one phrase per gate that the newest evaluations do not pass."""
    if problems := [p for gate in gates if (p := problem(gate, found, opened))]:
        raise ValueError(
            f"--require refuses {opened.checkpoint}: {'; '.join(problems)}"
        )


def problem(gate: Gate, found: Evaluated, opened: restore.Opened) -> str:
    """Why a gate is not passed; "" if it is."""
    name = gate.evaluation
    if name not in found.newest:
        known = {*opened.method.evals, *found.newest, *found.older}
        hint = "" if name in known else nearest(name, known)
        why = f"evaluation {name!r}{hint} is missing in {opened.lineage}"
        if name in found.older:
            why = f"its evaluation {name!r} of {found.older[name]} is older than it"
        return f"{gate}: {why}; run python -m launch.evaluate first"
    findings = found.newest[name]["findings"]
    if gate.metric not in findings:
        hint = nearest(gate.metric, findings, count=3)
        listed = (
            "" if hint else f"; it has {', '.join(sorted(findings)) or 'no numbers'}"
        )
        return f"{gate}: {name!r} has never measured {gate.metric!r}{hint}{listed}"
    value = float(findings[gate.metric])
    if SIGNS[gate.sign](value, gate.limit):  # never true of NaN
        return ""
    return f"{gate.evaluation}.{gate.metric} is {value:.6g}, wanted {gate.sign}{gate.limit:g}"


def better(metric: str, declared: Mapping[str, str]) -> str:
    """ "higher" or "lower", whichever is better of "EVAL.METRIC"; "" if nothing says it.

    declared: of `Method.better`, pattern -> direction. Else a word of the metric's name
    decides, the last one that is in LOWER or HIGHER.
    """
    for pattern, direction in declared.items():
        if fnmatch.fnmatchcase(metric, pattern):
            return direction
    for word in reversed(re.findall(r"[a-z0-9]+", metric.lower())):
        if word in LOWER | HIGHER:
            return "lower" if word in LOWER else "higher"
    return ""


def read_promoted(folder: pathlib.Path) -> dict[str, Any]:
    """The provenance of a promoted export. Raises ValueError if it is none."""
    path = folder / artifacts.PROVENANCE
    known = read_json(path)
    if not isinstance(known, dict) or not known.get("promoted"):
        raise ValueError(
            f"--not_worse_than: {folder} was not promoted; expected an export that passed "
            "--require or --not_worse_than"
        )
    return known


def check_not_worse(
    folder: pathlib.Path, found: Evaluated, opened: restore.Opened
) -> list[str]:
    """Compare with the findings that a promoted export recorded.

    A value is a regression if it is worse than that of the export, or, where that has an
    interval, worse than the worse end of the interval.

    Returns:
      sentences on metrics that are left out.

    Raises:
      ValueError: every regression by name, or that there is nothing to compare.
    """
    known = read_promoted(folder)
    before = {name: float(x) for name, x in known.get("findings", {}).items()}
    ends, now = known.get("intervals", {}), found.numbers()
    worse, left_out, compared = [], [], 0
    for name, old in before.items():
        direction = better(name, opened.method.better)
        if name not in now:
            left_out.append(f"{name} is not measured here")
        elif not direction or math.isnan(old):
            why = "was NaN" if direction else "which values are better is not known"
            left_out.append(f"{name}: {why}")
        else:
            compared += 1
            low, high = (float(x) for x in ends.get(name, (old, old)))
            value, sign = now[name], ">=" if direction == "higher" else "<="
            limit = low if direction == "higher" else high
            if not SIGNS[sign](value, limit):
                span = f", interval {short(low)} to {short(high)}" if low < high else ""
                worse.append(f"{name} is {value:.6g}, was {old:.6g}{span}")
    if worse:
        raise ValueError(
            f"{opened.checkpoint} is worse than {folder}: {'; '.join(worse)}"
        )
    if not compared:
        raise ValueError(
            f"{opened.checkpoint} shares no metric with {folder}, which has "
            f"{', '.join(before) or 'none'}; run python -m launch.evaluate first"
        )
    return [f"not compared with {folder}: {text}" for text in left_out]
