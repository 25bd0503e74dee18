"""Scores a published classifier on validation videos, its classes matched by name or number."""

import re
from collections.abc import Callable, Sequence

import jax
import numpy as np

from core.evals.extract import Features
from core.method import Classifier

ROWS = 64  # videos per call


def match_classes(classes: Sequence[str], classifier: Classifier) -> np.ndarray:
    """The number of each class among those of the classifier: int [classes].

    Classes that are all numbers are those numbers; names are compared without case,
    brackets and other marks. Raises ValueError for a class that the classifier lacks, and
    for names where it has none.
    """
    if all(name.isdecimal() for name in classes):
        numbers = np.asarray([int(name) for name in classes])
        if numbers.max() >= classifier.outputs:
            raise ValueError(
                f"the labels have the class {numbers.max()}, the classifier only the classes "
                f"0 to {classifier.outputs - 1}"
            )
        return numbers
    if not classifier.classes:
        raise ValueError(
            f"the classifier has {classifier.outputs} classes without names; expected "
            f"labels that are their numbers, found {classes[0]!r}"
        )
    known = {plain(name): i for i, name in enumerate(classifier.classes)}
    if missing := [name for name in classes if plain(name) not in known]:
        some = ", ".join(map(repr, classifier.classes[:3]))
        raise ValueError(
            f"the classifier has no class for {len(missing)} of {len(classes)} labels, such "
            f"as {missing[0]!r}; it has {classifier.outputs} classes, such as {some}"
        )
    return np.asarray([known[plain(name)] for name in classes])


def plain(name: str) -> str:
    """Letters and digits of a name, in lower case, with single spaces between."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def published_probabilities(
    classifier: Classifier,
    features: Features,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Softmax over all classes of the classifier, averaged over views: [videos, outputs]."""
    apply, found = jax.jit(classifier.apply), []
    params = jax.device_put(classifier.params)
    for start in range(0, len(features.rows), ROWS):
        x = np.asarray(features.tokens[features.rows[start : start + ROWS]], np.float32)
        logits = apply(params, x.reshape(-1, *x.shape[2:]))
        p = jax.nn.softmax(logits, -1).reshape(*x.shape[:2], -1)
        found.append(np.asarray(p.mean(1)))
        progress(start + len(x))
    return np.concatenate(found)
