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
    "Labelled videos to classify instead: CLASS/NAME, a list or table, TRAIN,VAL, tfds:NAME",
)
PAIRS = flags.DEFINE_string(
    "pairs",
    None,
    "Surprise instead: a table of possible and impossible videos (path, scene, possible)",
)
HEADS = flags.DEFINE_list(
    "heads",
    [],
    "Heads for --labels: knn, linear, attentive1, attentive4, and published, that of the "
    "weights; empty: published if there is one, else all",
)
CLASSIFIER = flags.DEFINE_string(
    "classifier",
    None,
    "Classifier published for the encoder, for --labels: a Hugging Face folder or Meta's "
    "probe file; by default that in --weights",
)
PROTOCOL = flags.DEFINE_string(
    "protocol",
    None,
    "Frames, clips and views of a published table, for --labels: k400, ssv2, ssv2_64, coin, "
    "diving48, jester",
)
FRAMES = flags.DEFINE_integer(
    "frames", 0, "Frames of a clip, for --labels; 0: those of the config"
)
FRAME_STEP = flags.DEFINE_integer(
    "frame_step",
    0,
    "Every how many frames of the file one is taken, for --labels; 0: by data.fps",
)
ENCODERS = flags.DEFINE_list(
    "encoders", [], "Encoders for --labels, baselines among them; empty: all"
)
CLIPS = flags.DEFINE_integer("clips", 0, "Clips per video, for --labels; 0: 1")
VIEWS = flags.DEFINE_integer("views", 0, "Views per clip, for --labels; 0: 1")
STEPS = flags.DEFINE_integer("head_steps", 500, "Steps that heads are trained for")
BATCH = flags.DEFINE_integer("batch", 16, "Clips encoded at once, for --labels")
WORKERS = flags.DEFINE_integer("workers", 2, "Threads that decode, for --labels")
WAIT = flags.DEFINE_float(
    "wait_s", 600, "Seconds to wait for the checkpoint while the run is training"
)
SHAPE = {"clips": CLIPS, "views": VIEWS, "frames": FRAMES, "frame_step": FRAME_STEP}
FLAG = {"steps": "head_steps"}  # of fields whose flag has another name


def main():
    from core.evals import evaluate
    from core.parallel import distributed

    distributed.start()
    opened = cli.open_state(WORKDIR, STEP, WAIT, WEIGHTS, CONFIG, OUT.value)
    if OUT.value:
        evaluate.check_results_folder(opened)
    try:
        if LABELS.value:
            return classify(opened)
        if PAIRS.value:
            return compare(opened)
        evaluate.evaluate(opened, EVAL.value)
    finally:
        opened.send()


def classify(opened):
    """Classify labelled videos; returns the exit code."""
    from core.base.names import choose
    from core.base.waiting import Stopped
    from core.data.labelled import read_labelled
    from core.evals import evaluate
    from core.evals.classification import Options
    from core.evals.frozen import evaluate_frozen
    from core.evals.protocols import PROTOCOLS
    from core.method import Watch
    from core.runs.preemption import stop_on_signals
    from core.runs.working import say

    if opened.method.frozen is None:
        raise ValueError(
            "--labels needs a method that encodes clips, such as jepa.pretrain"
        )
    given = {name: flag.value for name, flag in SHAPE.items() if flag.value}
    if PROTOCOL.value:
        name = PROTOCOL.value
        given = choose([name], PROTOCOLS, "protocol")[name]._asdict() | given
    numbers = {"batch": BATCH, "workers": WORKERS, "steps": STEPS}
    given |= {name: flag.value for name, flag in numbers.items()}
    if wrong := [name for name, value in given.items() if value < 1]:
        raise ValueError(f"--{FLAG.get(wrong[0], wrong[0])} must be 1 or more")
    options = Options(**given)
    classifier = find_classifier(opened)
    data = read_labelled(LABELS.value)
    about = {"checkpoint": str(opened.checkpoint), "step": opened.step}
    with stop_on_signals() as stopping, evaluate.open_state(opened) as state:
        try:
            report = evaluate_frozen(
                opened.method.frozen,
                state,
                data,
                opened.folder / "evaluations",
                about=about | {"config": opened.config},
                encoders=ENCODERS.value,
                heads=HEADS.value,
                classifier=classifier,
                options=options,
                watch=Watch(say, stopping),
            )
            evaluate.record(opened, "labels", report["encoders"])
        except Stopped:
            print("stopped; features are kept: the same command goes on", flush=True)
            return cli.PREEMPTED


def find_classifier(opened):
    """The published classifier of --classifier, else of --weights; None if there is none.

    Raises ValueError if it is named and there is none.
    """
    from core.base.places import local_folder

    named = CLASSIFIER.value is not None
    if not named and not WEIGHTS.value:
        return None
    path = local_folder(CLASSIFIER.value, what="--classifier") if named else None
    found = opened.method.frozen.classifier(path or opened.checkpoint)
    if found is None and named:
        raise ValueError(
            f"{path} holds no classifier; expected a Hugging Face folder of a "
            "VJEPA2ForVideoClassification, or Meta's probe file"
        )
    return found


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
