"""The contract between a method and everything else, as types."""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NotRequired, Protocol, Self, TypedDict

import jax
import numpy as np

Batch = Mapping[str, np.ndarray]
Metrics = Mapping[str, jax.Array]  # scalars; "loss" and "bad_steps" among them
Findings = Mapping[
    str, Any
]  # float, uint8 picture [H, W, 3] or [T, H, W, 3], list[str] of alarms, Markdown str
Shard = tuple[int, int]  # (index, count): this host's part of the batch


class State(Protocol):
    """A frozen dataclass (flax.struct) per method, without optional fields.

    step: updates done, int32 []. params: trained weights, nested dicts by name.
    bad_steps: consecutive updates that were not finite and not applied, int32 [].
    """

    @property
    def step(self) -> jax.Array: ...
    @property
    def params(self) -> Any: ...
    @property
    def bad_steps(self) -> jax.Array: ...

    def replace(self, **changes: Any) -> Self: ...


class Report(TypedDict):
    """A source's account after a batch.

    seen: samples so far. bad: those replaced. new: one dict (name, reason) per newly
    replaced sample. numbers: further scalars to log. said: what the progress line says of
    the source, if it says anything.
    """

    seen: int
    bad: int
    new: list[dict[str, Any]]
    numbers: dict[str, float]
    said: NotRequired[str]


class Source(Protocol):
    """Batches of this host. Offline sources ignore the state; agents act with it.

    A source of data at rest also has `fingerprint()`, a list of dicts as in
    core/data/fingerprint.py: a run refuses to resume with other data.
    """

    def next(
        self, state: Any = None, stopping: Callable[[], bool] = ...
    ) -> dict[str, np.ndarray]:
        """The next batch; raises core.base.waiting.Stopped if `stopping()` while it waits.

        The cursor and the state are then as before the call.
        """
        ...

    def get_state(self) -> dict[str, Any]:
        """The cursor as JSON-like values; `set_state` continues with the same samples."""
        ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def report(self) -> Report: ...

    def close(self) -> None: ...


class Watch(NamedTuple):
    """What a long evaluation reports to, and asks whether to stop; silent by default.

    say: takes a line for the user. stopping: whether to raise core.base.waiting.Stopped
    now. `core/evals/progress.py:watched` does both for a loop.
    """

    say: Callable[[str], None] = lambda text: None
    stopping: Callable[[], bool] = lambda: False


UNWATCHED = Watch()  # silent, and never stopped


class Eval(Protocol):
    """What to find out about a state: numbers, pictures and alarms by name.

    Raises Stopped where `watch.stopping()`; it is then repeated when the run resumes.
    """

    def __call__(self, state: Any, watch: Watch) -> Findings: ...


class Export(Protocol):
    """Writes a whole artifact into an empty folder.

    origin: provenance for the model card. Returns the largest difference between what was
    read back and the live networks; raises ValueError if it is too large.

    It may have keywords beside these: `encoder`, which of the method's encoders; `predictor`,
    whether that is written, too; `levels`, numbers of blocks whose outputs are wanted.
    launch.export refuses flags that the format has no keyword for.
    """

    def __call__(self, state: Any, folder: Any, origin: dict[str, Any]) -> float: ...


class Weights(NamedTuple):
    """What a Reader found for one part.

    arrays: a tree of numpy arrays. entry: where in the file or folder, for the report.
    """

    arrays: Any
    entry: str = ""


class Reader(Protocol):
    """Reads weights in one format, for `config.init_from`."""

    def __call__(
        self, path: pathlib.Path, parts: tuple[str, ...]
    ) -> Mapping[str, Weights] | None:
        """Weights by part name; None for a path of another format.

        parts: names of `Method.parts` that the caller needs; all that is there if empty.
        Raises ValueError if those are damaged or of another network.
        """
        ...


class MakeSource(Protocol):
    """split is "train" or "validation"; folder is the run's, for sources that store data."""

    def __call__(self, split: str, shard: Shard, folder: Any = None) -> Source: ...


class Costs(NamedTuple):
    """What a step costs over all devices: read by MFU and forecasts alone.

    flops: useful floating point operations. recomputed: those done a second time to save
    memory, besides. gathers: state field -> how often a step gathers the weights of its
    layers. token_traffic: mesh -> {axis: bytes that a device sends along it for tokens}.
    dtype: of weights and gradients on their way between devices. memory_hint: the setting
    to change first when a step does not fit; empty if there is none.
    """

    flops: float = 0.0
    recomputed: float = 0.0
    gathers: Mapping[str, int] = {}
    token_traffic: Callable[[jax.sharding.Mesh], Mapping[str, float]] = lambda mesh: {}
    dtype: np.dtype = np.dtype(np.float32)
    memory_hint: str = ""


class Tools(NamedTuple):
    """What benchmarks, forecasts and contact sheets use.

    benches: name -> function that measures and returns numbers. draw: batch -> uint8
    picture [H, W, 3] of it, as the step gets it. example: () -> a training example that is
    made without a data set, to compile a step.
    """

    benches: Mapping[str, Callable[[], dict[str, Any]]] = {}
    draw: Callable[[Batch], np.ndarray] | None = None
    example: Callable[[], Batch] | None = None


class Classifier(NamedTuple):
    """A classifier that was published for an encoder.

    apply: (params, tokens [B, N, D]) -> logits [B, outputs], pure. classes: names by
    number, empty if they have none.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    params: Any
    outputs: int
    classes: tuple[str, ...] = ()


class Frozen(NamedTuple):
    """What evaluations on labelled videos need of a method that encodes clips.

    weights: name -> state -> weights of an encoder, or None; the main one first, baselines
    among them. encode: (weights, uint8 clips [B, T, H, W, 3]) -> tokens [B, N, D], pure.
    frames, fps, size: of a clip. classifier: path -> the classifier there, None if there is
    none; raises ValueError if it is damaged. surprise: as core.evals.surprise.Surprise;
    empty if the method predicts nothing. still: (weights, uint8 pictures [B, H, W, 3]) ->
    features [B, N, D] of single pictures, pure, as methods with a frozen encoder read them.
    """

    weights: Mapping[str, Callable[[Any], Any]]
    encode: Callable[[Any, jax.Array], jax.Array]
    frames: int
    fps: float
    size: int
    classifier: Callable[[pathlib.Path], Classifier | None] = lambda path: None
    surprise: Mapping[str, Callable[[Any], Callable[[np.ndarray], np.ndarray]]] = {}
    still: Callable[[Any, jax.Array], jax.Array] | None = None


class Method(NamedTuple):
    """All that the train loop, evaluation and export know of a method.

    init: key -> state, arrays boxed with their logical axis names.
    step: (state, batch) -> (state, metrics); pure; jitted by the loop, state donated.
    batch: examples per step over all hosts. unit: what an example is called.
    frozen_fields: state fields that evaluations and exports read; all if empty.
    acts: whether the source needs the newest parameters, so that it waits for updates.
    parts: name for `config.init_parts` -> all places of these weights in the state, each
        "field" or "field/entry"; a file that holds the weights once fills all of them.
        A later part overwrites places of an earlier one.
    found_in: part -> its place in a checkpoint of another method, which is looked at where
        the part's own place is missing.
    readers: format, such as "export folder" -> reader of weights that are not a
        checkpoint of a run.
    frozen: encoders for evaluations on labelled videos, if the method has any.
    compile_options: platform -> options of XLA for the programs of a run on one device.
    better: "EVAL.METRIC", in which * is any text, -> "higher" or "lower", whichever is
        better, or "" if neither is. For names that do not say it (core/export/gates.py).
    """

    init: Callable[[jax.Array], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]
    source: MakeSource
    evals: Mapping[str, Eval]
    exports: Mapping[str, Export]
    batch: int
    unit: str = "examples"
    frozen_fields: tuple[str, ...] = ()
    acts: bool = False
    parts: Mapping[str, tuple[str, ...]] = {}
    found_in: Mapping[str, str] = {}
    readers: Mapping[str, Reader] = {}
    frozen: Frozen | None = None
    costs: Costs = Costs()
    tools: Tools = Tools()
    compile_options: Mapping[str, Mapping[str, Any]] = {}
    better: Mapping[str, str] = {}


@contextlib.contextmanager
def open_source(method: Method, shard: Shard = (0, 1)) -> Iterator[Source]:
    """The method's source of training batches, with a temporary folder while it is open."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(method.source("train", shard, folder)) as source,
    ):
        yield source
