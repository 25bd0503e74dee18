"""Clips whose data set has features of a frozen encoder in place of pictures.

launch.prepare --encoder makes such data sets; core/data/episodes/pictures.py says how they
look. Training refuses the features of another encoder than its own.
"""

from collections.abc import Sequence

import numpy as np

from core.data import source_names
from core.data.episodes.pictures import FEATURES
from core.data.mixture import Mixture
from core.data.records import BadSample
from core.parallel.weight_digest import weight_digest


def stored_in(records) -> list[dict]:
    """`about["features"]` of each part of records; {} for one with pictures."""
    parts = records.parts if isinstance(records, Mixture) else (records,)
    return [getattr(part, "about", {}).get("features", {}) for part in parts]


def check_stored(records, size: int) -> None:
    """Raise ValueError for features of pictures of another size, or of several encoders."""
    stored = stored_in(records)
    if len({x.get("encoder") for x in stored}) > 1:
        raise ValueError(
            f"the parts of {records} have features of different encoders, or pictures beside "
            "features; expected the same of all"
        )
    for known in filter(None, stored):
        if known["size"] != size:
            raise ValueError(
                f"{records} has features of pictures of {known['size']} pixels, but "
                f"data.size is {size}; use data.size {known['size']}"
            )


def features_in(window, images: Sequence[str], skip: int) -> dict | None:
    """{"features": float16 [frames, views N, D]} of a window; None if it has pictures.

    images: names of views; "" is the first by name. Raises BadSample for a name that is not
    there.
    """
    known = sorted(name for name in window if name.startswith(FEATURES))
    if not known:
        return None
    names = [FEATURES + name if name else known[0] for name in images]
    if missing := [name for name in names if name not in window]:
        raise BadSample(f"has no {missing[0]!r}; expected one of {', '.join(known)}")
    return {"features": np.concatenate([window[name][::skip] for name in names], 1)}


def checked(source, records):
    """The source; one that compares encoders before its first batch, if it has features."""
    wanted = stored_in(records)[0].get("encoder", "")
    return CheckedSource(source, str(records), wanted) if wanted else source


class CheckedSource:
    """A core.method.Source of features. name: of the data. encoder: digest of its weights."""

    def __init__(self, source, name: str, encoder: str):
        self.source, self.known, self.encoder = source, name, encoder

    def __getattr__(self, name):
        return getattr(self.source, name)

    def next(self, state=None, *more):
        """The next batch; raises ValueError if the state has another encoder."""
        if state is not None and self.encoder:
            if (found := weight_digest(state.encoder)) != self.encoder:
                raise ValueError(
                    f"{self.known} has features of the encoder {self.encoder[:12]}, but that "
                    f"of this run is {found[:12]}; prepare the data with --encoder of the "
                    "weights that init_from names"
                )
            self.encoder = ""
        return self.source.next(state, *more)


def with_pictures(name: str, split: str):
    """Recordings of a name, or those that its features were made of."""
    found = source_names.recordings(name, split)
    stored = getattr(found, "about", {}).get("features")
    return source_names.recordings(stored["source"], split) if stored else found
