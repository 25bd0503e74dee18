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
ENCODER = flags.DEFINE_string(
    "encoder",
    None,
    "Which encoder: target, its moving average and the default, or online",
)
PREDICTOR = flags.DEFINE_bool(
    "predictor", None, "Whether to export the predictor, too; by default only hf does"
)
LEVELS = flags.DEFINE_list(
    "levels", None, "Blocks, counted from 0, whose features are wanted besides the last"
)
REQUIRE = flags.DEFINE_multi_string(
    "require",
    [],
    "Refuse unless the newest evaluation found this: EVAL.METRIC>=NUMBER, or <=, >, <",
)
NOT_WORSE = flags.DEFINE_string(
    "not_worse_than",
    "",
    "Refuse if a finding is worse than that of this promoted export",
)
LIST = flags.DEFINE_bool(
    "list",
    False,
    "List the exports of the run, or of all runs below --workdir, instead",
)
WHICH = flags.DEFINE_string(
    "which", None, "Say from which checkpoint the export in this folder came, instead"
)
WAIT = flags.DEFINE_float(
    "wait_s", 600, "Seconds to wait for the checkpoint while the run is training"
)


def main():
    from core.base.places import local_folder

    if WHICH.value or LIST.value:
        from core.export import listing

        if LIST.value and not WORKDIR.value:
            raise ValueError("--list needs --workdir=DIR, a run or a folder of runs")
        lines = (
            listing.origin_lines(local_folder(WHICH.value, what="--which"))
            if WHICH.value
            else listing.list_exports(local_folder(WORKDIR.value, what="--workdir"))
        )
        for line in lines:
            print(line, flush=True)
        return cli.DONE
    if not OUT.value:
        raise ValueError("--out=OUT is needed, the folder in which formats are written")
    from core.export.export_run import Conditions, export

    out = OUT.value if WEIGHTS.value else None
    opened = cli.open_state(WORKDIR, STEP, WAIT, WEIGHTS, CONFIG, out)
    export(
        opened,
        local_folder(OUT.value, what="--out"),
        FORMAT.value,
        conditions=Conditions(REQUIRE.value, NOT_WORSE.value),
        encoder=ENCODER.value,
        predictor=PREDICTOR.value,
        levels=levels(LEVELS.value),
    )
    opened.send()


def levels(texts) -> tuple[int, ...] | None:
    """The numbers of --levels. Raises ValueError for other text."""
    if texts is None:
        return None
    if not texts or not all(text.strip().isdecimal() for text in texts):
        raise ValueError(
            f"--levels is {','.join(texts)!r}; expected numbers of blocks from 0, such as 2,5"
        )
    return tuple(int(text) for text in texts)


if __name__ == "__main__":
    cli.run(main)
