"""Train a config in a workdir, or go on with the run that is there."""

from absl import flags
from ml_collections import config_flags

from launch import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file and preset, configs/jepa.py:tiny", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run")
ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Go on with a run although its config differs"
)


def main():
    if CONFIG.value is None or not WORKDIR.value:
        raise ValueError("--config=FILE[:preset] and --workdir=DIR are both needed")
    from core import devices
    from core.train import fit

    devices.start()
    fit(CONFIG.value, WORKDIR.value, allow_config_change=ALLOW_CHANGE.value)


if __name__ == "__main__":
    cli.run(main)
