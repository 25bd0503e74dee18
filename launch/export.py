"""Export a run to artifacts: weights or programs, a model card, provenance."""

from absl import flags

from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run")
OUT = flags.DEFINE_string("out", None, "Folder in which one folder per format is made")
FORMAT = flags.DEFINE_list("format", [], "Names of formats, such as stablehlo")
STEP = flags.DEFINE_integer(
    "step", None, "Step of the checkpoint; by default the newest"
)
WAIT = flags.DEFINE_float(
    "wait_s", 600, "Seconds to wait for the checkpoint while the run is training"
)


def main():
    if not (WORKDIR.value and OUT.value):
        raise ValueError("--workdir=DIR and --out=OUT are both needed")
    from core.export.export_run import export_run

    export_run(
        WORKDIR.value, OUT.value, FORMAT.value, step=STEP.value, wait_s=WAIT.value
    )


if __name__ == "__main__":
    cli.run(main)
