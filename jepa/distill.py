"""Distillation of V-JEPA 2.1 as a Method: a student predicts a teacher's features.

Source: arXiv 2603.14482, in which ViT-B and ViT-L learn from ViT-G. The objective is that of
jepa/dense.py with the teacher in the place of the moving average: the student sees the
visible tokens, and a predictor answers in the teacher's space, by default for its last level
alone. A moving average of the student, which the loss does not read, is what evaluations and
exports take. The teacher is frozen, as in the paper, or learns beside the student by the loss
of V-JEPA 2.1; then its moving average is what both predict.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core import optim
from core.evals.collapse import LEAST_STD, health_alarms, verdict
from core.evals.statistics import effective_rank
from core.method import Method, Reader
from core.nn.layers import normalize
from core.section import Section
from jepa import dense
from jepa.evals.health import mean_error
from jepa.inputs.color_jitter import standardize_clips
from jepa.losses.dense import LEARNER, Part, compare
from jepa.nets.dense_model import DenseEncoder
from jepa.nets.model import encoder_size, patchify
from jepa.nets.networks import make_dense_networks
from jepa.weights import readers

SHARED = ("patch", "positions", "rope_grid", "attention", "dtype")
SHOWN = {
    "student_std": f"over inputs; 1 is the most, {LEAST_STD} collapse",
    "rank_pooled": "directions that clips differ in",
    "loss_masked": "of the teacher's features, whose deviation is 1",
}


@struct.dataclass
class State:
    """Weights, their average, the teacher's, moments and counters of one run."""

    step: jax.Array
    params: dict  # "encoder", "predictor"; LEARNER of a teacher that learns
    target: dict  # EMA of params["encoder"], float32
    teacher: dict  # frozen, or EMA of params["teacher"]
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # consecutive updates that were not finite and not applied


def make_networks(config: Section):
    """(student, predictor, teacher, predictor of a teacher that learns, or None) of a config.

    `predictor.out` of 0 is the teacher's width. The teacher has the student's patch,
    positions and kernel; its predictor is the student's, for all of its levels. Raises
    ValueError for widths or levels that do not fit.
    """
    size = encoder_size(config["teacher"]["size"])
    predictor = config["predictor"]
    if predictor["out"] not in (0, size["width"]):
        raise ValueError(
            f"predictor.out is {predictor['out']}, but teacher.size is "
            f"{config['teacher']['size']}, {size['width']} wide; use 0 or {size['width']}"
        )
    student, guess = make_dense_networks(
        dtype=config["dtype"],
        encoder=config["encoder"],
        predictor=predictor.replace(out=size["width"]),
    )
    learns = config["teacher"]["learns"]
    shared = {name: getattr(student, name) for name in SHARED}
    shared |= {"remat": student.remat} if learns else {}
    teacher = config["teacher"].without("size", "learns").into(
        DenseEncoder, **size, **shared
    )  # fmt: skip
    if guess.levels not in (1, student.levels) or guess.levels not in (
        1,
        teacher.levels,
    ):
        raise ValueError(
            f"predictor.levels is {guess.levels}, but encoder.levels is {student.levels} and "
            f"teacher.levels is {teacher.levels}; use 1, the last level, or the same for all"
        )
    own = guess.clone(levels=teacher.levels, features=teacher.width)
    return student, guess, teacher, own if learns else None


def make_init(student, predictor, teacher: DenseEncoder, own, *, grid):
    """key -> State with boxed arrays; the teacher is random until weights are placed.

    own: predictor of a teacher that learns, or None.
    """
    begin = dense.make_init(student, predictor, grid=grid)
    pixels = 3 * teacher.patch[0] * teacher.patch[1] * teacher.patch[2]

    def init(key):
        first, again = begin(key), jax.random.fold_in(key, 1)
        params = first.params
        if own:
            theirs = dense.make_init(teacher, own, grid=grid)(again).params
            weights = theirs["encoder"]
            params |= {LEARNER[0]: weights, LEARNER[1]: theirs["predictor"]}
        else:
            inputs = jnp.zeros((1, 1, pixels)), jnp.zeros((1, 1), jnp.int32)
            weights = teacher.init(again, *inputs, grid=grid)["params"]
        return State(
            step=first.step,
            params=params,
            target=first.target,
            teacher=weights,
            opt=optim.adam_moments(params),
            bad_steps=first.bad_steps,
        )

    return init


def make(config: Section) -> Method:
    """The Method of a config of distillation.

    Raises ValueError that names the field for values that do not fit together.
    """
    student, predictor, teacher, own = make_networks(config)
    grid = dense.clip_grid(config, student)
    averages, places = (("target", "encoder"),), ("teacher",)
    if own:
        averages += (("teacher", LEARNER[0]),)
        places += (f"params/{LEARNER[0]}",)
    method = dense.build(
        config,
        (student, predictor),
        init=make_init(student, predictor, teacher, own, grid=grid),
        check=lambda: None,  # `make_networks` has checked them
        health=functools.partial(make_health, teacher=teacher),
        teacher=teacher,
        learner=own and (teacher, own),
        truth="teacher",
        averages=averages,
    )
    theirs = readers.make_readers(teacher, predictor)

    def source(split, shard, folder=None):
        if split == "train":
            check_teacher(config)
        return method.source(split, shard, folder)

    return method._replace(
        source=source,
        parts=readers.PARTS | {"teacher": places},
        found_in={"teacher": "target"},
        readers={
            name: either(read, theirs[name]) for name, read in method.readers.items()
        },
    )


def check_teacher(config: Section) -> None:
    """Raise ValueError if training would begin with a random teacher that is not meant."""
    meant = config["init_from"] or config["random_teacher"]
    if not meant and not config["teacher"]["learns"]:
        raise ValueError(
            "init_from is empty, but jepa.distill does not train its teacher; name a run of "
            "jepa.dense, an export or Meta's file, with --config.init_parts=teacher, or set "
            "--config.teacher.learns=True or --config.random_teacher=True"
        )


def either(student: Reader, teacher: Reader) -> Reader:
    """A reader of the teacher if that part is wanted, else of the student's parts.

    The teacher is the encoder of a file, its moving average where there are two.
    """

    def read(path, parts):
        if "teacher" not in parts:
            return student(path, parts)
        if rest := [name for name in parts if name != "teacher"]:
            raise ValueError(
                f"init_from {path}: init_parts names teacher and {rest[0]}, but a file holds "
                "one of both; use --config.init_parts=teacher"
            )
        found = teacher(path, ("encoder",))
        return None if found is None else {"teacher": found["encoder"]}

    return read


def make_health(student, predictor, masker, *, mask_tokens, batch, teacher):
    """state -> {"alarms": sentences, and these numbers}, of the validation clips.

    student_std: deviation of the average's normalized features over clips and tokens;
    student_std_clips: over clips at one place. rank_tokens, rank_pooled: their effective
    ranks. loss_masked, loss_visible: errors of the teacher's features.
    """
    networks, part = (student, predictor), Part(masker, mask_tokens)

    @jax.jit
    def measure(params, target, weights, batch):
        patches = standardize_clips(patchify(batch["video"], student.patch), None)
        masks = part.masks(batch)
        (found,) = compare(
            networks, [part], params, weights, [patches], [masks], teacher=teacher
        )
        truth, *guesses = found
        found = {}
        for name, guess, where in zip(
            ("masked", "visible"), guesses, ("target", "context"), strict=True
        ):
            wanted = jnp.take_along_axis(truth, masks[where][..., None], 1)
            found[f"loss_{name}"] = mean_error(guess, wanted, masks[f"{where}_valid"])
        own = student.apply({"params": target}, patches, grid=masker.grid)
        own = normalize(own, eps=1e-5)
        found["student_std"] = own.std((0, 1)).mean()
        found["student_std_clips"] = own.std(0).mean()
        return found, own.mean(1), own.reshape(-1, student.width)

    def health(state, watch):
        if state.teacher is None or state.params["predictor"] is None:
            raise ValueError(
                "health compares with the teacher, whose weights are read in training alone; "
                "name other evaluations, such as --eval=probe"
            )
        found = measure(state.params, state.target, state.teacher, batch())
        scalars = {name: float(x) for name, x in found[0].items()}
        step = max(1, len(found[2]) // 4096)
        scalars["rank_pooled"] = effective_rank(found[1])
        scalars["rank_tokens"] = effective_rank(found[2][::step])
        known = {"width": student.width, "rank_samples": len(found[1])}
        known |= {"target_std": scalars["student_std"]}
        alarms = health_alarms(scalars | known)
        watch.say(verdict(scalars, alarms, SHOWN))
        return scalars | {"alarms": alarms}

    return health
