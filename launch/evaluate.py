"""Evaluate a checkpoint of a run, or published weights."""

from absl import flags

from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run")
STEP = flags.DEFINE_integer(
    "step", None, "Step of the checkpoint; by default the newest"
)
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Weights in place of a run, as init_from takes; needs --config, --out",
)
CONFIG = cli.define_config("Config whose networks --weights belong to")
OUT = flags.DEFINE_string("out", None, "Folder of results; by default that of the run")
EVAL = flags.DEFINE_list("eval", [], "Names of evaluations; empty: all of the method")
LABELS = flags.DEFINE_string(
    "labels",
    None,
    "Labelled videos to classify instead: CLASS/NAME, or lists TRAIN,VAL",
)
PAIRS = flags.DEFINE_string(
    "pairs",
    None,
    "Surprise instead: a table of possible and impossible videos (path, scene, possible)",
)
HEADS = flags.DEFINE_list(
    "heads", [], "Heads for --labels: knn, linear, attentive1, attentive4; empty: all"
)
ENCODERS = flags.DEFINE_list(
    "encoders", [], "Encoders for --labels, baselines among them; empty: all"
)
CLIPS = flags.DEFINE_integer("clips", 1, "Clips per video, for --labels")
VIEWS = flags.DEFINE_integer("views", 1, "Views per clip, for --labels")
STEPS = flags.DEFINE_integer("head_steps", 500, "Steps that heads are trained for")
BATCH = flags.DEFINE_integer("batch", 16, "Clips encoded at once, for --labels")
WORKERS = flags.DEFINE_integer("workers", 2, "Threads that decode, for --labels")
WAIT = flags.DEFINE_float(
    "wait_s", 600, "Seconds to wait for the checkpoint while the run is training"
)


def main():
    from core.evals import evaluate
    from core.parallel import distributed

    distributed.start()
    opened = cli.open_state(WORKDIR, STEP, WAIT, WEIGHTS, CONFIG, OUT.value)
    if LABELS.value:
        return classify(opened)
    if PAIRS.value:
        return compare(opened)
    evaluate.evaluate(opened, EVAL.value)


def classify(opened):
    """Classify labelled videos; returns the exit code."""
    from core.base.waiting import Stopped
    from core.data.labelled import read_labelled
    from core.evals import evaluate
    from core.evals.classification import Options
    from core.evals.frozen import evaluate_frozen
    from core.runs.preemption import stop_on_signals

    if opened.method.frozen is None:
        raise ValueError(
            "--labels needs a method that encodes clips, such as jepa.pretrain"
        )
    options = Options(
        clips=CLIPS.value, views=VIEWS.value, batch=BATCH.value, workers=WORKERS.value,
        steps=STEPS.value,
    )  # fmt: skip
    data = read_labelled(LABELS.value)
    about = {"checkpoint": str(opened.checkpoint), "step": opened.step}
    with stop_on_signals() as stopping, evaluate.open_state(opened) as state:
        try:
            evaluate_frozen(
                opened.method.frozen,
                state,
                data,
                opened.folder / "evaluations",
                about=about | {"config": opened.config},
                encoders=ENCODERS.value,
                heads=HEADS.value,
                options=options,
                stopping=stopping,
                say=lambda text: print(text, flush=True),
            )
        except Stopped:
            print("stopped; features are kept: the same command goes on", flush=True)
            return cli.PREEMPTED


def compare(opened):
    """Surprise at possible and impossible videos; returns the exit code."""
    from core.base.waiting import Stopped
    from core.data.pairs import read_pairs
    from core.evals import evaluate
    from core.evals.paired_videos import evaluate_pairs
    from core.method import Watch
    from core.runs.preemption import stop_on_signals

    if opened.method.frozen is None:
        raise ValueError(
            "--pairs needs a method that predicts clips, such as jepa.pretrain"
        )
    scenes = read_pairs(PAIRS.value)
    about = {"checkpoint": str(opened.checkpoint), "step": opened.step}
    with stop_on_signals() as stopping, evaluate.open_state(opened) as state:
        try:
            evaluate_pairs(
                opened.method.frozen,
                state,
                scenes,
                opened.folder / "evaluations",
                about=about | {"config": opened.config},
                clips=CLIPS.value,
                watch=Watch(evaluate.say_of("pairs"), stopping),
            )
        except Stopped:
            print("stopped", flush=True)
            return cli.PREEMPTED


if __name__ == "__main__":
    cli.run(main)
