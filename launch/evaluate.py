"""Evaluate a checkpoint of a run."""

from absl import flags

from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run")
EVAL = flags.DEFINE_list("eval", [], "Names of evaluations; empty: all of the method")
STEP = flags.DEFINE_integer(
    "step", None, "Step of the checkpoint; by default the newest"
)
WAIT = flags.DEFINE_float(
    "wait_s", 600, "Seconds to wait for the checkpoint while the run is training"
)


def main():
    if not WORKDIR.value:
        raise ValueError("--workdir=DIR is needed: the folder of a run")
    from core.evals.evaluate import evaluate_run
    from core.parallel import distributed

    distributed.start()
    evaluate_run(WORKDIR.value, EVAL.value, step=STEP.value, wait_s=WAIT.value)


if __name__ == "__main__":
    cli.run(main)
