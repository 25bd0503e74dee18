"""The transformer with ordered masks, AdaLN, grouped heads, q-k norms and a cache."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.nn.layers import Dense
from core.nn.masks import CAUSAL, FULL, block_causal
from core.nn.positions import halve, rope_tables, rotate
from core.nn.token_groups import Tokens
from core.nn.transformer import Transformer
from core.parallel.gradients import mean_gradients
from core.parallel.layouts import unbox
from core.parallel.mesh import make_mesh

B, N, D, C = 4, 24, 48, 6
SIZES = {"depth": 2, "heads": 4, "hidden": 32}
STEP = 4
close = functools.partial(np.testing.assert_allclose, atol=2e-5)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def rope(d=D // 4):
    """Rotary tables of N tokens, STEP per time step, for heads of d channels."""
    t, row = np.divmod(np.arange(N), STEP)
    where = np.stack([t, row, 0 * t], -1)[None]
    return tuple(map(jnp.asarray, rope_tables(where, head_dim=d, variant="paired")))


def setup(seed=0, condition=None, **options):
    """(stack, weights that are random everywhere, tokens)."""
    stack = Transformer(**SIZES, **options)
    x = normal(1, B, N, D)
    tables = rope(options.get("head_dim", D // 4))
    init = functools.partial(stack.init, condition=condition)
    shapes = unbox(jax.eval_shape(init, jax.random.key(0), x, tables))
    rng = np.random.default_rng(seed)

    def draw(path, w):
        scale = path[-1].key == "scale"
        return jnp.asarray(scale + 0.1 * rng.standard_normal(w.shape), jnp.float32)

    return stack, jax.tree_util.tree_map_with_path(draw, shapes), x


def independent(weights, x, tables, allowed, condition=None, norm="none", kv_heads=4):
    """One block of the stack after another in plain JAX; allowed: bool [N, N]."""
    d = 2 * tables[0].shape[-1]

    def layer_norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    def head_norm(x, w):
        if norm == "layer":
            return layer_norm(x) * w["scale"]
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w["scale"]

    def dense(x, w):
        return x @ w["kernel"] + w["bias"]

    for i in range(SIZES["depth"]):
        w = jax.tree.map(lambda y, i=i: y[i], weights["params"]["blocks"])
        a, h = w["attention"], x
        if condition is None:
            before = [
                lambda y, n=n, w=w: layer_norm(y) * w[n]["scale"] + w[n]["bias"]
                for n in ("norm1", "norm2")
            ]
            gates = 1, 1
        else:
            c = condition[:, None] if condition.ndim == 2 else condition
            c = jnp.repeat(c, N // c.shape[1], axis=1)
            m = jnp.split(dense(c * jax.nn.sigmoid(c), w["modulation"]), 6, -1)
            before = [
                lambda y, s=s, m=m: layer_norm(y) * (1 + m[s + 1]) + m[s]
                for s in (0, 3)
            ]
            gates = m[2], m[5]
        h = before[0](x)
        q = dense(h, a["query"]).reshape(B, N, 4, d)
        k = dense(h, a["key"]).reshape(B, N, kv_heads, d)
        v = dense(h, a["value"]).reshape(B, N, kv_heads, d)
        if norm != "none":
            q, k = head_norm(q, a["query_norm"]), head_norm(k, a["key_norm"])
        q, k = (rotate(halve(y), *tables) for y in (q, k))
        k, v = (jnp.repeat(y, 4 // kv_heads, axis=2) for y in (k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(d)
        scores = jnp.where(allowed, scores, -jnp.inf)
        y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        x = x + gates[0] * dense(y.reshape(B, N, 4 * d), a["out"])
        y = jax.nn.gelu(dense(before[1](x), w["mlp"]["up"]), approximate=False)
        x = x + gates[1] * dense(y, w["mlp"]["down"])
    return x


def dense_mask(step):
    row = np.arange(N)
    return row[:, None] // step >= row // step if step else np.ones((N, N), bool)


CASES = {
    "causal": {"mask": CAUSAL, "head_dim": 16},
    "blocks": {"mask": block_causal(STEP), "kv_heads": 2},
    "rms": {"qk_norm": "rms", "kv_heads": 1},
    "layer": {"qk_norm": "layer"},
    "row": {"condition": (B, C)},
    "step": {"condition": (B, N // STEP, C), "mask": block_causal(STEP)},
    "token": {"condition": (B, N, C), "qk_norm": "rms", "mask": CAUSAL, "kv_heads": 2},
}


@pytest.mark.parametrize(
    ("name", "remat"), [*((name, "none") for name in CASES), ("token", "dots")]
)
def test_the_stack_equals_an_independent_one(name, remat):
    options = dict(CASES[name])
    shape = options.pop("condition", None)
    c = None if shape is None else normal(2, *shape)
    stack, params, x = setup(condition=c, remat=remat, **options)
    allowed = dense_mask(options.get("mask", FULL).step_tokens)
    tables = rope(options.get("head_dim", D // 4))

    def ours(params, x, c):
        return stack.apply(params, x, tables, condition=c)

    def plain(params, x, c):
        norm, kv_heads = options.get("qk_norm", "none"), options.get("kv_heads", 4)
        return independent(params, x, tables, allowed, c, norm, kv_heads)

    def outcome(f):
        """(output, gradients of a random projection of it)."""

        def projected(*args):
            y = f(*args)
            return (y * normal(3, B, N, D)).sum(), y

        which = (0, 1) if c is None else (0, 1, 2)
        run = jax.jit(jax.value_and_grad(projected, which, has_aux=True))
        (_, y), grads = run(params, x, c)
        return y, grads

    (found, found_grads), (expected, grads) = outcome(ours), outcome(plain)
    close(found, expected)
    jax.tree.map(
        lambda a, b: close(a, b, atol=2e-5 * max(1, np.abs(b).max())),
        found_grads,
        grads,
    )


def test_a_conditioned_stack_starts_as_the_identity():
    stack, c = Transformer(**SIZES), normal(2, B, C)
    x = normal(1, B, N, D)
    params = unbox(jax.jit(stack.init)(jax.random.key(0), x, rope(), condition=c))
    block = params["params"]["blocks"]
    assert set(block) == {"attention", "mlp", "modulation"}

    def squares(params):
        y = stack.apply(params, x, rope(), condition=c)
        return (y**2).sum(), y

    grads, y = jax.jit(jax.grad(squares, has_aux=True))(params)
    np.testing.assert_array_equal(y, x)
    # A gradient reaches the gates, so it does not stay so.
    assert np.abs(grads["params"]["blocks"]["modulation"]["kernel"]).max() > 0


def test_new_options_add_no_weights_by_default():
    stack, x = Transformer(**SIZES), normal(1, B, N, D)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), x)
    block = unbox(shapes)["params"]["blocks"]
    assert set(block) == {"attention", "mlp", "norm1", "norm2"}
    assert set(block["attention"]) == {"query", "key", "value", "out"}


def test_a_change_reaches_no_earlier_step():
    stack, params, x = setup(mask=block_causal(STEP))
    changed = x.at[:, 9].multiply(2 * normal(4, D))  # a token of the third step
    a, b = (jax.jit(stack.apply)(params, y, rope()) for y in (x, changed))
    np.testing.assert_array_equal(a[:, :8], b[:, :8])
    assert (np.abs(a - b)[:, 8:].max((0, 2)) > 1e-4).all()


@pytest.mark.parametrize("attention", ["plain", "cudnn"])
def test_segments_and_padding_with_an_ordered_mask(attention):
    stack, params, x = setup(mask=CAUSAL, attention=attention)
    valid = jnp.ones((B, N), bool).at[:, 5].set(False).at[:, 20].set(False)
    found = jax.jit(lambda x: stack.apply(params, x, None, valid, (16, 8)))(x)
    keep = np.delete(np.arange(16), 5), 16 + np.delete(np.arange(8), 4)
    for rows in keep:  # as if the padding were not there
        close(found[:, rows], jax.jit(stack.apply)(params, x[:, rows]))


MESHES = [
    {"sequence": 2},
    {"data": 2, "tensor": 2},
    {"fsdp": 2, "sequence": 2, "tensor": 2},
]


@functools.cache
def conditioned(steps, segments):
    """(run, what it gives on one device) of a stack with a condition per step."""
    c = normal(2, B, steps, C)
    options = {"mask": block_causal(STEP), "kv_heads": 2, "qk_norm": "rms"}
    stack, params, x = setup(condition=c, remat="block", **options)

    def loss(params, x, c):
        y = stack.apply(params, x, rope(), None, segments, c)
        return (y * normal(3, B, N, D)).sum(), y

    def run():
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, x, c)

    return run, run()


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize(
    ("steps", "segments"), [(N // STEP, None), (N, (16, 8))], ids=["step", "token"]
)
def test_any_mesh_computes_the_same(mesh, steps, segments):
    run, ((_, expected), grads) = conditioned(steps, segments)
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    with jax.set_mesh(make_mesh(devices=devices, **mesh)):
        (_, found), found_grads = run()
    close(found, expected)
    jax.tree.map(
        lambda a, b: close(a, b, atol=2e-5 * max(1, np.abs(b).max())),
        found_grads,
        grads,
    )


@pytest.mark.parametrize(
    ("n", "attention"),
    [(1, "plain"), (STEP, "plain"), (STEP, "splash"), (2 * STEP, "cudnn")],
)
def test_a_cache_extends_to_the_whole_pass(n, attention):
    mask = CAUSAL if n == 1 else block_causal(STEP)
    c = normal(2, B, N, C)
    options = {"kv_heads": 2, "qk_norm": "rms", "attention": attention}
    stack, params, x = setup(condition=c, mask=mask, **options)
    whole = jax.jit(stack.apply)(params, x, rope(), condition=c)

    def steps(y):
        """[.., N, ..] -> [N / n, .., n, ..]."""
        return jnp.moveaxis(y.reshape(y.shape[0], N // n, n, *y.shape[2:]), 1, 0)

    extend = jax.jit(functools.partial(stack.apply, params, method="extend"))

    def body(cache, now):
        y, cache = extend(now[0], cache, now[1], now[2])
        return cache, y

    given = jax.tree.map(steps, (x, rope(), c))
    empty = stack.make_cache(B, N, D)
    assert empty.keys.shape == (2, B, N, 2, D // 4)
    cache, found = jax.jit(lambda given: jax.lax.scan(body, empty, given))(given)
    assert cache.length == N
    close(jnp.moveaxis(found, 0, 1).reshape(B, N, D), whole)
    # Step by step without a scan; a full cache gives NaN, not an answer.
    cache = empty
    for i in range(2):
        y, cache = extend(
            *jax.tree.map(lambda a, i=i: a[i], given[:1]),
            cache,
            *jax.tree.map(lambda a, i=i: a[i], given[1:]),
        )
        close(y, whole[:, i * n : (i + 1) * n])
    y, _ = extend(x[:, :n], cache._replace(length=jnp.int32(N)), None, c[:, :n])
    assert jnp.isnan(y).all()


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_a_cache_on_a_mesh(mesh):
    stack, params, x = setup(mask=block_causal(STEP), kv_heads=2)
    whole = jax.jit(stack.apply)(params, x)

    @jax.jit
    def two(params, x):
        cache = stack.make_cache(B, N, D)
        y, cache = stack.apply(params, x[:, :16], cache, method="extend")
        z, _ = stack.apply(params, x[:, 16:], cache, method="extend")
        return jnp.concatenate([y, z], 1)

    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    with jax.set_mesh(make_mesh(devices=devices, **mesh)):
        close(two(params, x), whole)


@pytest.mark.parametrize(
    ("remat", "mesh"), [("none", None), ("block", None), ("dots", MESHES[-1])], ids=str
)
def test_levels_are_the_outputs_of_shorter_stacks(remat, mesh):
    stack, params, x = setup(remat=remat)
    first = jax.tree.map(lambda w: w[:1], params)
    one = Transformer(**SIZES | {"depth": 1})
    short = jax.jit(one.apply)(first, x, rope())
    whole = jax.jit(stack.apply)(params, x, rope())

    def run():
        levels = stack.clone(levels=(0, 1))
        return jax.jit(levels.apply)(params, x, rope())

    if mesh is None:
        found = run()
    else:
        with jax.set_mesh(make_mesh(devices=jax.devices()[:8], **mesh)):
            found = run()
    close(found, jnp.concatenate([short, whole], -1))


def test_groups_are_separate_calls_that_gather_weights_once():
    stack, params, x = setup(mask=block_causal(STEP), remat="block")
    y = normal(5, 2 * B, 9, D)  # an odd number: each of two devices has all of them
    one, other = Tokens(x, rope()), Tokens(y, mask=FULL)

    def separate(params):
        return stack.apply(params, x, rope()), stack.clone(mask=FULL).apply(params, y)

    def together(params, groups=(one, other)):
        return stack.apply(params, groups, method="together")

    def loss(f):
        return lambda params: sum(
            (z * normal(6 + i, *z.shape)).sum() for i, z in enumerate(f(params))
        )

    expected = jax.jit(jax.value_and_grad(loss(separate)))(params)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:8], **MESHES[-1])):
        found = jax.jit(jax.value_and_grad(loss(together)))(params)
    jax.tree.map(
        lambda a, b: close(a, b, atol=2e-5 * max(1, np.abs(b).max())), found, expected
    )
    with jax.set_mesh(make_mesh(devices=jax.devices()[:4], fsdp=4)):
        counts = [
            str(jax.make_jaxpr(f)(params)).count("all_gather[")
            for f in (lambda p: together(p, (one,)), together, separate)
        ]
    assert 0 < counts[0] == counts[1] == counts[2] / 2


@pytest.mark.parametrize(
    "options",
    [{"remat": "none", "mask": block_causal(STEP)}, {"remat": "dots"}],
    ids=str,
)
def test_the_last_tokens_alone_are_those_of_the_whole(options):
    """And so are their gradients, which reach all weights and tokens."""
    stack, params, x = setup(**options)

    def loss(params, x, **more):
        y = stack.apply(params, x, rope(), **more)[:, -3:]
        return (y * jnp.cos(jnp.arange(D))).sum(), y

    both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    whole = jax.jit(both)(params, x)
    found = jax.jit(functools.partial(both, last=3))(params, x)
    jax.tree.map(functools.partial(close, rtol=1e-4), found, whole)


def apply(mesh=None, **options):
    stack, params, x = setup(**options)
    if mesh is None:
        return stack, params, x
    with jax.set_mesh(make_mesh(devices=jax.devices()[:4], **mesh)):
        return stack.apply(params, x)


def extend(n, capacity=N, **options):
    stack, params, x = setup(**options)
    cache = stack.make_cache(B, capacity, D)
    return stack.apply(params, x[:, :n], cache, method="extend")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: apply(kv_heads=3), "kv_heads is 3; expected a divisor of 4 heads"),
        (
            lambda: apply(kv_heads=2, mesh={"tensor": 4}),
            "mesh.tensor 4 does not divide 2 kv_heads; use 2",
        ),
        (lambda: apply(qk_norm="l2"), "qk_norm is 'l2'; expected 'none', 'rms' or"),
        (lambda: setup(levels=(0,)), r"levels are \(0,\); expected .* end with 1"),
        (lambda: setup(condition=normal(0, B, 5, C)), "5 steps, which do not divide"),
        (lambda: extend(4), "extend needs a causal or block-causal mask"),
        (
            lambda: extend(6, mask=block_causal(4)),
            "got 6 tokens; expected a multiple of",
        ),
        (lambda: extend(8, 4, mask=CAUSAL), "up to the cache's capacity of 4"),
    ],
)
def test_wrong_options_raise(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_gradients_inside_shard_map(mesh):
    """The stack inside mean_gradients, whose program is already one of each device."""
    stack = Transformer(
        **SIZES, mask=CAUSAL, kv_heads=2, qk_norm="layer", remat="attention"
    )
    batch = {"x": normal(1, B, N, D), "c": normal(2, B, N // STEP, C)}
    init = jax.jit(stack.init)
    boxed = init(jax.random.key(0), batch["x"], rope(), condition=batch["c"])
    params = jax.tree.map(lambda w: w + 0.1, unbox(boxed))

    def loss_fn(params, frozen, batch):
        y = stack.apply(params, batch["x"], rope(), condition=batch["c"])
        loss = (y * normal(3, N, D)).mean()
        return loss, ({"loss": loss}, y)

    def run():
        like = jax.eval_shape(lambda: boxed), {}
        options = {"like": like, "dtype": jnp.float32, "parts": 2}
        f = functools.partial(mean_gradients, loss_fn, **options)
        return jax.jit(f)(params, {}, batch)

    *_, rows, expected = run()
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    with jax.set_mesh(make_mesh(devices=devices, **mesh)):
        *_, found_rows, found = run()
    # Accumulation orders the rows of all devices part by part.
    assert found_rows.shape == rows.shape
    jax.tree.map(functools.partial(close, atol=1e-6), found, expected)


class Parent(nn.Module):
    """A method's network with a stack inside."""

    @nn.compact
    def __call__(self, x, cache=None):
        stack = Transformer(**SIZES, mask=CAUSAL, name="stack")
        x = Dense(D, (None, "embed"), name="embed")(x)
        if cache is None:
            return stack(x)
        return stack.extend(x, cache)


def test_a_stack_inside_a_module_extends_its_cache():
    x = normal(1, B, N, D)
    params = unbox(jax.jit(Parent().init)(jax.random.key(0), x))
    run = jax.jit(Parent().apply)
    whole = run(params, x)
    cache = Transformer(**SIZES).make_cache(B, N, D)
    first, cache = run(params, x[:, :10], cache)
    second, cache = run(params, x[:, 10:], cache)
    close(jnp.concatenate([first, second], 1), whole)
