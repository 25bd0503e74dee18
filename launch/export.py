"""Publish what a run has learnt as frozen artefacts with card and provenance."""

from absl import flags

from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run")
OUT = flags.DEFINE_string("out", None, "Folder that gets one folder per format")
FORMAT = flags.DEFINE_list("format", [], "Formats by name, such as stablehlo")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; the newest by default")


def main():
    if not (WORKDIR.value and OUT.value):
        raise ValueError("--workdir=DIR and --out=OUT are both needed")
    from core.export.export_run import export_run

    export_run(WORKDIR.value, OUT.value, FORMAT.value, step=STEP.value)


if __name__ == "__main__":
    cli.run(main)
