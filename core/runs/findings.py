"""Findings of an evaluation by kind: numbers, pictures, alarms; which alarms to raise."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

READINGS = 5  # evaluations in a row after which an alarm has lasted


class LastingAlarm(str):
    """The text of an alarm that is raised only if it lasts.

    It lasts if the number `name` was `limit` or more in the last READINGS evaluations.
    One such reading is usual in the first steps and says little about a run.
    """

    name: str
    limit: float

    def __new__(cls, text: str, *, name: str, limit: float):
        alarm = super().__new__(cls, text)
        alarm.name, alarm.limit = name, limit
        return alarm


def raised_alarms(
    alarms: Iterable[str], lines: Sequence[Mapping[str, float | str]]
) -> list[str]:
    """`alarms` without those that have to last and have not.

    lines: what a run has written to metrics.jsonl, oldest first, this evaluation
    included. A resumed run reads the same lines, so it raises the same alarms.
    """

    def has_lasted(alarm: LastingAlarm) -> bool:
        values = [float(line[alarm.name]) for line in lines if alarm.name in line]
        last = values[-READINGS:]
        return len(last) == READINGS and not any(x < alarm.limit for x in last)

    return [x for x in alarms if not isinstance(x, LastingAlarm) or has_lasted(x)]


def split_findings(findings: Mapping) -> tuple[dict, dict, dict]:
    """(numbers, pictures, lists of sentences) of an evaluation, each by name; no texts."""
    numbers, pictures, sentences = {}, {}, {}
    for name, value in findings.items():
        if isinstance(value, str):
            continue
        if isinstance(value, list):
            sentences[name] = value
        elif isinstance(value, np.ndarray) and value.ndim:
            pictures[name] = value
        else:
            numbers[name] = float(value)
    return numbers, pictures, sentences


def texts_of(findings: Mapping) -> dict[str, str]:
    """The Markdown texts of an evaluation by name, such as tables."""
    return {name: value for name, value in findings.items() if isinstance(value, str)}
