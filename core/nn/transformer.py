"""A stack of transformer blocks, run on whatever part of the work a device holds.

Under a mesh every device runs the same program on its own rows, tokens and heads, and
says itself what it exchanges with others: the weights of a layer are gathered over
`fsdp` just before they are used (their gradients come back scattered), keys and values
over `sequence`, partial sums over `tensor`.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from core.nn import token_order as order_of
from core.nn.attention import ALL, Shard
from core.nn.blocks import Block
from core.nn.kernels import FIRST
from core.parallel.collectives import gather, in_use, part_of
from core.parallel.layouts import is_kernel, path_name, spec, specs

# What each kind of rematerialisation keeps besides the input of each block.
FUSED = ("dot_product_attention_fwd_wrapper",)  # cuDNN's primitive
NAMED = jax.checkpoint_policies.save_only_these_names("attention")
LINEAR = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def keep_attention(primitive, *args, **params):
    """Outputs of fused attention kernels."""
    return primitive.name in FUSED or NAMED(primitive, *args, **params)


def keep_dots(primitive, *args, **params):
    """Outputs of linear layers and of fused attention kernels."""
    kept = LINEAR(primitive, *args, **params)
    return kept or keep_attention(primitive, *args, **params)


POLICIES = {"block": None, "attention": keep_attention, "dots": keep_dots}


class Transformer(nn.Module):
    """`depth` equal blocks as one stacked pytree, run in turn.

    Args:
      rescale: divide the two output projections of block l (from 1) by sqrt(2 l) at
        initialisation, as V-JEPA 2 does.
      remat: "none" keeps activations and runs the blocks one by one: a scan would copy
        all of them into stacked arrays and out again (15% of a small step on CPU).
        Otherwise blocks run in a scan, so that a deep stack compiles fast, and are
        recomputed backward: all of a "block", all but "attention", or all but attention
        and matrix products ("dots").
      attention: one of core/nn/kernels.py.
    """

    depth: int
    heads: int
    hidden: int
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    qkv_bias: bool = True
    rescale: bool = True
    remat: str = "none"
    attention: str = "plain"

    @nn.compact
    def __call__(self, x, rope=None, valid=None, segments: Sequence[int] | None = None):
        """Tokens [B, N, D] of one device's rows, or of all -> the same, after all blocks.

        As in core/nn/attention.py, but for whole rows; `valid` [B, N] marks what is padding.
        """
        B, N, D = x.shape
        segments = tuple(segments or (N,))
        if self.remat not in ("none", *POLICIES):
            raise ValueError(
                f"remat is {self.remat!r}; use 'none' or one of {list(POLICIES)}"
            )
        if not self.depth:
            return x

        def init(key):
            one = jnp.zeros((1, 8, D), self.dtype)
            keys = jax.random.split(key, self.depth)
            block = self.block(D // self.heads)
            params = jax.vmap(lambda k: block.init(k, one, None, None, (8,)))(keys)
            return name_layers(params["params"], self.depth, self.rescale)

        # Not by `param` once there, which knows the whole shape and no device's part.
        params = self.get_variable("params", "blocks")
        if params is None:
            params = self.param("blocks", init)
        mesh = in_use()
        ways = 1 if mesh is None else parts_of(mesh, segments)
        first = self.attention in FIRST
        order, seen = order_of.arrange(valid, segments, ways, B, first=first)
        if order is not None:
            inverse = jnp.argsort(order, axis=1)
            x = order_of.permute(x, order, inverse)
            rope = jax.tree.map(lambda table: order_of.take(table, order), rope)
        if mesh is None:
            y = self.run(params, x, rope, seen, segments)
        else:
            named = jax.eval_shape(init, jax.random.key(0))
            y = self.spread(mesh, named, params, x, rope, seen, segments, ways)
        return y if order is None else order_of.permute(y, inverse, order)

    def block(self, head_dim, ways: int = 1) -> Block:
        """A block with its part of the heads and of the hidden channels."""
        return Block(
            self.heads // ways,
            head_dim,
            self.hidden // ways,
            self.eps,
            self.dtype,
            self.qkv_bias,
            self.attention,
            parent=None,
        )

    def spread(self, mesh, named, params, x, rope, seen, segments, ways):
        """Run it on one device's part of a mesh: its rows, tokens and heads."""
        tensor = mesh.shape["tensor"]
        for name, size in (("heads", self.heads), ("hidden channels", self.hidden)):
            if size % tensor:
                near = max(n for n in range(1, tensor) if size % n == 0)
                raise ValueError(
                    f"mesh.tensor {tensor} does not divide {size} {name}; use {near}"
                )
        split = specs(mesh, named)
        local = functools.partial(
            self.run,
            segments=tuple(n // ways for n in segments),
            split=split,
            shard=Shard(
                "sequence" if ways > 1 else None, "tensor" if tensor > 1 else None
            ),
            tensor=tensor,
        )
        if mesh.manual_axes:
            return local(params, x, rope, seen)

        def rows(x):
            return spec(mesh, ("batch", *(None,) * (x.ndim - 1)), x.shape)

        given = x, rope, seen
        run = jax.shard_map(
            local,
            in_specs=(split, *jax.tree.map(rows, given)),
            out_specs=rows(x),
            check_vma=False,
        )
        return run(params, *given)

    def run(self, params, x, rope, seen, segments, split=None, shard=ALL, tensor=1):
        """All blocks on one device's part; `split` says how their weights are laid out."""
        block = self.block(x.shape[-1] // self.heads, tensor)
        if shard.tokens:
            x, rope = jax.tree.map(functools.partial(part_of, shard.tokens), (x, rope))

        def body(x, weights):
            if split is not None:
                weights = jax.tree_util.tree_map_with_path(self.whole, weights, split)
            args = (x, rope, seen, segments, shard)
            return block.apply({"params": weights}, *args), None

        if self.remat != "none":
            body = jax.checkpoint(body, prevent_cse=False, policy=POLICIES[self.remat])
            x, _ = jax.lax.scan(body, x, params)
        else:
            for weights in unstack(params, self.depth):
                x, _ = body(x, weights)
        if shard.tokens:
            x = jax.lax.all_gather(x, shard.tokens, axis=1, tiled=True)
        return x

    def whole(self, path, weight, split: PartitionSpec):
        """A layer's weight, whole but for `tensor`; the first axis is that of layers."""
        dtype = self.dtype if is_kernel(path_name(path)) else weight.dtype
        return gather(weight, PartitionSpec(*split[1:]), dtype)


def parts_of(mesh, segments) -> int:
    """Devices that share the tokens of a clip; 1 where its one segment does not divide."""
    ways = mesh.shape["sequence"]
    left = [n for n in segments if n % ways]
    if left and len(segments) > 1:
        near = max(n for n in range(1, ways) if all(s % n == 0 for s in segments))
        raise ValueError(
            f"mesh.sequence {ways} does not divide the {left[0]} tokens of a mask "
            f"pattern; use {near}"
        )
    return 1 if left else ways


def unstack(params, depth):
    """Weights of `depth` layers, one tree each; their gradients are joined at once."""
    leaves, tree = jax.tree.flatten(params)
    layers = zip(*(jnp.unstack(w) for w in leaves), strict=True)
    return [jax.tree.unflatten(tree, layer) for layer in layers]


def name_layers(params, depth, rescale):
    """Name the leading axis of stacked block weights; scale down the residual outputs."""
    scale = 1 / np.sqrt(2 * np.arange(1, depth + 1, dtype=np.float32))[:, None, None]

    def one(path, box):
        names = [str(k.key) for k in path]
        value = box.value
        if rescale and names[-2:] in (["out", "kernel"], ["down", "kernel"]):
            value = value * scale
        return box.replace(value=value, names=("layers", *box.names))

    boxed = nn.LogicallyPartitioned
    return jax.tree_util.tree_map_with_path(
        one, params, is_leaf=lambda x: isinstance(x, boxed)
    )
