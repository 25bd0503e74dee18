"""What an evaluation finds, by kind: numbers, pictures, alarms."""

import numpy as np


def split_findings(findings: dict) -> tuple[dict, dict, dict]:
    """What an evaluation found, apart: numbers, pictures, lists of sentences."""
    numbers, pictures, sentences = {}, {}, {}
    for name, value in findings.items():
        if isinstance(value, list):
            sentences[name] = value
        elif isinstance(value, np.ndarray) and value.ndim:
            pictures[name] = value
        else:
            numbers[name] = float(value)
    return numbers, pictures, sentences
