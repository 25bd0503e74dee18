"""Work of a training step, counted from shapes: operations, and bytes of tokens sent.

Only matrix products count, two operations per multiply-add; a backward pass costs two
forward passes. Padded tokens count like valid ones, since budgets are fixed.
"""

import functools

from core.method import Costs
from core.parallel.batches import batch_ways
from jepa.nets.dense_model import DensePredictor


def make_costs(
    encoder,
    predictor,
    masker,
    *,
    accumulate: int,
    encoded: tuple[int, ...] = (),
    teacher=None,
    truth: bool = True,
) -> Costs:
    """What a step of `masker.batch` clips costs; accumulate: parts of a batch.

    encoded: tokens of the contexts that the encoder sees, where patterns share them.
    teacher: the network whose features are predicted, by default the encoder. truth:
    whether these features are counted.
    """
    shape = {name: masker.sizes(name) for name in ("context", "target")}
    shape["encoded"] = encoded or shape["context"]
    shape |= {"grid": masker.grid, "batch": masker.batch, "teacher": teacher}
    shape["truth"] = truth
    useful, recomputed = step(encoder, predictor, **shape)
    traffic = functools.partial(token_traffic, encoder, predictor, **shape)
    forward_passes = 1 + (encoder.remat != "none")
    return Costs(
        flops=useful,
        recomputed=recomputed,
        gathers={
            "params": accumulate * forward_passes,
            "teacher" if teacher else "target": accumulate,
        },
        token_traffic=traffic,
        dtype=encoder.dtype,
        memory_hint=memory_hint(encoder.remat),
    )


def make_dense_costs(
    encoder, predictor, parts, *, accumulate: int, teacher=None, learner=None
) -> Costs:
    """`make_costs` of V-JEPA 2.1; parts: a masker and a patch for clips and for images.

    learner: networks of a teacher that learns, too, from its own features. All parts pass
    a network together, so that weights are gathered as often as for one.
    """
    costs = [
        make_costs(
            encoder.clone(patch=patch),
            predictor,
            masker,
            accumulate=accumulate,
            teacher=teacher and teacher.clone(patch=patch),
        )
        for masker, patch in parts
    ]
    if learner:
        costs += [
            make_costs(
                learner[0].clone(patch=patch),
                learner[1],
                masker,
                accumulate=accumulate,
                truth=False,
            )
            for masker, patch in parts
        ]

    def traffic(mesh):
        sent = [cost.token_traffic(mesh) for cost in costs]
        return {axis: sum(x[axis] for x in sent) for axis in sent[0]}

    return costs[0]._replace(
        flops=sum(cost.flops for cost in costs),
        recomputed=sum(cost.recomputed for cost in costs),
        token_traffic=traffic,
    )


def make_view_costs(encoder, projector, *, counts, batch: int) -> Costs:
    """What a step of LeVJEPA on `batch` clips costs; counts: tokens kept of each view.

    Each view has a summary token besides. SIGReg's projections are not counted.
    """
    pixels = 3 * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
    tower = {"width": encoder.width, "depth": encoder.depth, "hidden": encoder.hidden}
    segments = [n + 1 for n in counts]
    seen = forward(tokens=sum(segments), segments=segments, inputs=pixels, **tower)
    # Of the last block, queries, outputs and MLP of the summary tokens alone.
    rest, width = sum(counts), encoder.width
    idle = 2 * rest * (2 * width * width + 2 * width * encoder.hidden)
    seen -= idle + 4 * width * sum(n * (n + 1) for n in counts)
    head = 2 * len(counts) * projector.hidden * (encoder.width + projector.out)
    again = seen if encoder.remat in ("block", "attention") else 0

    def traffic(mesh):
        ways, rows = mesh.shape["sequence"], batch / batch_ways(mesh)
        if ways == 1 or all(n % ways for n in segments):
            return {}
        passes, each = 2 + (encoder.remat != "none"), encoder.dtype.itemsize
        tokens = sum(n for n in segments if not n % ways)
        values = tokens * encoder.width * (2 * encoder.depth * passes + 2)
        return {"sequence": rows * each * values * (ways - 1) / ways}

    return Costs(
        flops=float(batch * 3 * (seen + head)),
        recomputed=float(batch * again),
        gathers={"params": 1 + (encoder.remat != "none")},
        token_traffic=traffic,
        dtype=encoder.dtype,
        memory_hint=memory_hint(encoder.remat),
    )


def memory_hint(remat: str) -> str:
    """The setting that saves most memory; empty if it is set already."""
    return "" if remat == "block" else f"set encoder.remat to 'block' (it is {remat!r})"


def forward(*, tokens, segments, width, depth, hidden, inputs, outputs=0):
    """Operations of one clip in a transformer; tokens attend within their segment.

    segments: lengths whose sum is `tokens`. inputs, outputs: widths of what is projected
    to and from `width` at the ends.
    """
    dense = 4 * width * width + 2 * width * hidden
    attention = 2 * width * sum(n * n for n in segments)
    edges = tokens * width * (inputs + outputs)
    return 2 * (depth * (tokens * dense + attention) + edges)


def step(
    encoder, predictor, *, grid, context, target, batch, truth=True, encoded=(),
    teacher=None,
) -> tuple[float, float]:  # fmt: skip
    """(useful, recomputed) operations of encoder, predictor and target on `batch` clips.

    context, target: tokens per mask pattern; encoded: of the contexts that the encoder
    sees, `context` if empty. teacher, truth: as of `make_costs`. Recomputed ones are not
    among the useful.
    """
    encoded = encoded or context
    pixels = 3 * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
    all_tokens = grid[0] * grid[1] * grid[2]
    small, large = (
        {"width": net.width, "depth": net.depth, "hidden": net.hidden, "inputs": pixels}
        for net in (encoder, teacher or encoder)
    )
    seen = forward(tokens=sum(encoded), segments=encoded, **small)
    whole = forward(tokens=all_tokens, segments=(all_tokens,), **large)
    pairs = [c + t for c, t in zip(context, target, strict=True)]
    guess = forward(
        tokens=sum(pairs),
        segments=pairs,
        width=predictor.width,
        depth=predictor.depth,
        hidden=predictor.hidden,
        inputs=0,
    )
    again = seen + guess if encoder.remat in ("block", "attention") else 0
    guess += 2 * ends(predictor, sum(context), sum(target))
    return float(batch * (3 * (seen + guess) + truth * whole)), float(batch * again)


def ends(predictor, context: int, target: int) -> int:
    """Multiply-adds at the input and output of a predictor, for tokens of one clip."""
    if not isinstance(predictor, DensePredictor):
        return predictor.width * predictor.out * (context + target)
    D, levels = predictor.features, predictor.levels
    mix = levels * D * D if levels > 1 else 0
    outputs = predictor.width * levels * predictor.out * (context + target)
    return context * (mix + D * predictor.width) + outputs


def token_traffic(
    encoder, predictor, mesh, *, grid, context, target, batch, truth=True, encoded=(),
    teacher=None,
) -> dict:  # fmt: skip
    """{"sequence": bytes} that a device sends along this axis in a step, empty if it is 1.

    Keys and values of every layer: forward, when they are recomputed, and their
    gradients; besides, the tokens at the end of a network.
    """
    ways, rows = mesh.shape["sequence"], batch / batch_ways(mesh)
    if ways == 1:
        return {}
    passes = 2 + (encoder.remat != "none")
    sizes = (
        (encoder, sum(encoded or context), passes),
        (predictor, sum(context) + sum(target), passes),
    )
    sizes += ((teacher or encoder, grid[0] * grid[1] * grid[2], 1),) * truth
    each = encoder.dtype.itemsize
    values = sum(
        tokens * net.width * (2 * net.depth * count + min(count, 2))
        for net, tokens, count in sizes
    )
    return {"sequence": rows * each * values * (ways - 1) / ways}
