"""Benchmarks of evaluations on frozen features: extraction from videos, and heads."""

import functools
import math
import pathlib
import tempfile
import time
from collections.abc import Callable

import av
import jax
import jax.numpy as jnp
import numpy as np

from core.data.views import read_views
from core.evals.classification import HEADS
from core.evals.extract import decoded, extract
from core.evals.fit import cross_entropy, init_heads, update
from core.method import Frozen, Method
from core.parallel.layouts import unbox

REPEATS = 3  # of which the least time counts: other work only adds to it
VIDEOS, BATCH, WORKERS = 16, 4, 2
MANY = 16  # heads trained at once
CLASSES, ROWS = 10, 16  # of the heads, and videos of an update


def frozen_of(method: Method) -> Frozen:
    """The encoders of a method; raises ValueError if it has none."""
    if method.frozen is None:
        raise ValueError(
            "extract and probe need a method that encodes clips, whose `frozen` is set"
        )
    return method.frozen


def measure_extract(config, method: Method) -> dict[str, float]:
    """Seconds per clip of decoding alone, of encoding alone, and of extraction.

    Of VIDEOS videos, written for it, with WORKERS threads that decode.
    extract_over_slower: time of extraction over that of the slower of the two; 1 if they
    overlap, up to 2 if they take turns or share the same cores.
    """
    frozen = frozen_of(method)
    state = jax.jit(lambda: unbox(method.init(jax.random.key(config.seed))))()
    weights = next(iter(frozen.weights.values()))(state)
    encode = functools.partial(jax.jit(frozen.encode), weights)
    clip = {"frames": frozen.frames, "fps": frozen.fps, "size": frozen.size}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        paths = [write_video(place / f"{i}.mp4", frozen) for i in range(VIDEOS)]

        def load(row):
            return read_views(paths[row], **clip)

        videos = np.concatenate([load(i)[0] for i in range(BATCH)])
        jax.block_until_ready(encode(videos))  # compiles

        def decode_all():
            for _ in decoded(load, range(VIDEOS), BATCH, WORKERS, {}):
                pass

        def encode_all():
            for _ in range(VIDEOS // BATCH):
                np.asarray(encode(videos))

        counter = iter(range(REPEATS))

        def extract_all():
            out = place / f"features{next(counter)}"
            extract(out, encode, load, VIDEOS, batch=BATCH, workers=WORKERS)

        alone = [least(f)[0] / VIDEOS for f in (decode_all, encode_all)]
        both = least(extract_all)[0] / VIDEOS
    return {
        "extract_decode_seconds_per_clip": alone[0],
        "extract_encode_seconds_per_clip": alone[1],
        "extract_seconds_per_clip": both,
        "extract_over_slower": both / max(alone),
    }


def measure_probe(config, method: Method, *, steps: int) -> dict[str, float]:
    """Seconds of an update of one head and of MANY at once, by kind, and their ratio.

    On ROWS videos of random features of the method's shape, in wall and processor time.
    probe_encode_cpu_seconds: of encoding as many clips once, for comparison.
    """
    frozen = frozen_of(method)
    state = jax.jit(lambda: unbox(method.init(jax.random.key(config.seed))))()
    weights = next(iter(frozen.weights.values()))(state)
    shape = (ROWS, frozen.frames, frozen.size, frozen.size, 3)
    encode = functools.partial(jax.jit(frozen.encode), weights)
    tokens = encode(np.zeros(shape, np.uint8))
    encoding = least(lambda: jax.block_until_ready(encode(np.zeros(shape, np.uint8))))
    found = {"probe_encode_cpu_seconds": encoding[1]}
    rng = np.random.default_rng(0)
    x = rng.standard_normal(tokens.shape).astype(np.float32)
    y = rng.integers(0, CLASSES, ROWS)
    for name, make in HEADS.items():
        if make is None:
            continue
        head = make(CLASSES, x.shape[-1])
        times = [least(trainer(head, count, x, y, steps)) for count in (1, MANY)]
        for i, kind in enumerate(("", "cpu_")):
            one, many = (each[i] / steps for each in times)
            found[f"probe_{name}_{kind}seconds_1"] = one
            found[f"probe_{name}_{kind}seconds_{MANY}"] = many
            found[f"probe_{name}_{kind}ratio"] = many / max(one, 1e-9)
    return found


def trainer(head, count: int, x, y, steps: int) -> Callable[[], None]:
    """A function that trains `count` heads for `steps` updates; they are compiled before."""
    x = jnp.asarray(x)
    rates, decays = jnp.full(count, 1e-3), jnp.full(count, 0.01)
    start = init_heads(head, list(range(count)), x[:1])

    def train():
        params, opt = jax.tree.map(jnp.copy, start)
        for _ in range(steps):
            params, opt = update(head, cross_entropy, params, opt, x, y, rates, decays)
        jax.block_until_ready(params)

    train()
    return train


def least(work: Callable) -> tuple[float, float]:
    """The least (wall, processor) seconds of REPEATS calls."""
    wall, busy = math.inf, math.inf
    for _ in range(REPEATS):
        begin, before = time.perf_counter(), time.process_time()
        work()
        wall = min(wall, time.perf_counter() - begin)
        busy = min(busy, time.process_time() - before)
    return wall, busy


def write_video(path: pathlib.Path, frozen: Frozen) -> str:
    """A video twice as long as a clip, at 25 frames per second, of a moving pattern."""
    rate, side = 25, 2 * round(frozen.size * 8 / 14)
    wide = 2 * round(side * 4 / 6)
    pattern = np.random.default_rng(0).integers(0, 256, (side, 2 * wide, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = side, wide, "yuv420p"
        for i in range(math.ceil(2 * frozen.frames / frozen.fps * rate)):
            image = np.roll(pattern, 2 * i, 1)[:, :wide]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return str(path)
