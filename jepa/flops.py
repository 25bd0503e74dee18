"""Work of a training step, counted from shapes: operations, and tokens that are sent.

Matrix products only, two operations per multiply-add; backward costs twice forward.
Padding inside a budget does not count.
"""

from core.parallel.batches import batch_ways


def forward(*, tokens, segments, width, depth, hidden, inputs, outputs=0):
    """One clip through a transformer of `tokens` in segments that attend to themselves."""
    dense = 4 * width * width + 2 * width * hidden
    attention = 2 * width * sum(n * n for n in segments)
    edges = tokens * width * (inputs + outputs)
    return 2 * (depth * (tokens * dense + attention) + edges)


def step(encoder, predictor, *, grid, context, target, batch) -> tuple[float, float]:
    """(useful, recomputed) operations of both towers and the target encoder on `batch`
    clips, each counted once.

    context, target: tokens per mask pattern.
    """
    pixels = 3 * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
    all_tokens = grid[0] * grid[1] * grid[2]
    tower = {"width": encoder.width, "depth": encoder.depth, "hidden": encoder.hidden}
    seen = forward(tokens=sum(context), segments=context, inputs=pixels, **tower)
    whole = forward(tokens=all_tokens, segments=(all_tokens,), inputs=pixels, **tower)
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
    guess += 2 * predictor.width * encoder.width * (sum(context) + sum(target))
    return float(batch * (3 * (seen + guess) + whole)), float(batch * again)


def token_traffic(encoder, predictor, mesh, *, grid, context, target, batch) -> dict:
    """Bytes that a device sends along `sequence` in a step: keys and values of every
    layer, forward, when they are recomputed, and their gradients; tokens at the end."""
    ways, rows = mesh.shape["sequence"], batch / batch_ways(mesh)
    if ways == 1:
        return {}
    passes = 2 + (encoder.remat != "none")
    sizes = ((encoder, sum(context), passes), (encoder, grid[0] * grid[1] * grid[2], 1))
    sizes += ((predictor, sum(context) + sum(target), passes),)
    each = encoder.dtype.itemsize
    values = sum(
        tokens * net.width * (2 * net.depth * count + min(count, 2))
        for net, tokens, count in sizes
    )
    return {"sequence": rows * each * values * (ways - 1) / ways}
