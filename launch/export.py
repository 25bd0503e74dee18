"""Export a run or published weights to artifacts: weights or programs, a model card."""

from absl import flags

from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run")
STEP = flags.DEFINE_integer(
    "step", None, "Step of the checkpoint; by default the newest"
)
WEIGHTS = flags.DEFINE_string(
    "weights", None, "Weights in place of a run, as init_from takes; needs --config"
)
CONFIG = cli.define_config("Config whose networks --weights belong to")
OUT = flags.DEFINE_string("out", None, "Folder in which one folder per format is made")
FORMAT = flags.DEFINE_list("format", [], "Names of formats, such as stablehlo")
WAIT = flags.DEFINE_float(
    "wait_s", 600, "Seconds to wait for the checkpoint while the run is training"
)


def main():
    if not OUT.value:
        raise ValueError("--out=OUT is needed, the folder in which formats are written")
    from core.base.places import local_folder
    from core.export.export_run import export

    out = OUT.value if WEIGHTS.value else None
    opened = cli.open_state(WORKDIR, STEP, WAIT, WEIGHTS, CONFIG, out)
    export(opened, local_folder(OUT.value, what="--out"), FORMAT.value)


if __name__ == "__main__":
    cli.run(main)
