"""Object positions in the memory of an Atari console, by the tables of OCAtari.

Source: arXiv 2306.08649. Its package pulls in plotting and window libraries and declares
NumPy below 2, so that only the tables are loaded: the one module of a game, not its package.
"""

import functools
import importlib
import importlib.util
import pathlib
import sys
import types

import numpy as np

PACKAGE = "ocatari"
TABLES = "_ocatari_tables"  # the name under which the folder of tables is imported
INSTALL = "run pip install --no-deps 'ocatari>=2.2.1,<3'"


@functools.lru_cache
def load_table(game: str) -> types.ModuleType:
    """The module of a game. Raises ValueError if OCAtari is missing."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the objects of atari games need the package {PACKAGE}; {INSTALL}"
        )
    package = types.ModuleType(TABLES)
    package.__path__ = [str(pathlib.Path(spec.origin).parent / "ram")]
    sys.modules.setdefault(TABLES, package)
    return importlib.import_module(f"{TABLES}.{game}")


class ObjectReader:
    """Reads the first `count` objects of a game after each frame.

    Objects keep their place in the list; OCAtari updates some of them from frame to frame,
    so that a reader serves one episode.
    """

    def __init__(self, game: str, count: int):
        self.table, self.count = load_table(game), count
        self.objects = self.table._init_objects_ram(False)

    def read(self, ram: np.ndarray) -> np.ndarray:
        """Centers (x, y) in pixels of the screen, float32 [K, 2]; NaN for absent objects.

        ram: uint8 [128], the console's memory.
        """
        self.table._detect_objects_ram(self.objects, ram.astype(int), False)
        return np.array(
            [x.center if x else (np.nan, np.nan) for x in self.objects[: self.count]],
            np.float32,
        )
