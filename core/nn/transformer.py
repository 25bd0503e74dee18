"""A stack of transformer blocks, on one device or as each device's program on a mesh.

Under a mesh every device runs the same program on its own rows, tokens and heads. Its
collectives are explicit: the weights of a layer are gathered over `fsdp` just before use
(their gradients are scattered), keys and values over `sequence`; partial sums are added
over `tensor`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from core.nn import token_order
from core.nn.attention import WHOLE, AttentionOptions, Shard
from core.nn.blocks import Block
from core.nn.cache import Cache, LayerCache, empty_cache
from core.nn.masks import FULL, Mask
from core.nn.remat import POLICIES
from core.nn.stacked_layers import name_layers, stretches, unstack
from core.nn.token_groups import Tokens, local_arrays, place
from core.parallel.collectives import current_mesh, gather_weight
from core.parallel.layouts import (
    is_kernel,
    partition_spec,
    partition_specs,
    path_name,
)


class Transformer(nn.Module):
    """`depth` equal blocks whose weights are one stacked pytree.

    Attributes:
      rescale: divide the two output projections of block l (from 1) by sqrt(2 l) at
        initialization, as V-JEPA 2 does.
      remat: "none" keeps activations and unrolls the blocks: a scan would copy all
        activations into stacked arrays and out again (15% of a small step on CPU).
        Otherwise blocks run in a scan, so that a deep stack compiles fast, and the
        backward pass recomputes all of a "block", all but "attention", or all but
        attention and matrix products ("dots").
      attention: one of core/nn/kernels.py.
      kv_heads, qk_norm, mask: as in AttentionOptions; kv_heads None is `heads`.
      head_dim: channels per head; None is width / heads.
      levels: blocks, counted from 0, whose outputs are returned side by side on the
        channels, ascending, the last block among them; () is the last block alone.
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
    kv_heads: int | None = None
    head_dim: int | None = None
    qk_norm: str = "none"
    mask: Mask = FULL
    levels: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rope=None,
        valid: jax.Array | None = None,
        segments: Sequence[int] | None = None,
        condition: jax.Array | None = None,
        last: int | None = None,
    ) -> jax.Array:
        """All blocks on tokens [B, N, D], of one device's rows or of all: [B, N, D].

        With `levels` the result is [B, N, len(levels) D].

        Args:
          rope: tables of core/nn/positions.py, [B or 1, N, 2, head_dim / 2], or None.
          valid: bool [B, N], False at padding; None is all valid.
          segments: lengths that sum to N; tokens see only their own segment, and `mask`
            counts positions from its start. None is one segment.
          condition: AdaLN input, [B, C] or [B, T, C] with T dividing N (Block). Its
            presence at initialization decides whether blocks have AdaLN weights.
          last: number of last tokens that are returned, [B, last, D]; the last block
            computes no others. For one segment without `valid`, `condition` or `levels`.

        Raises ValueError for unknown options and sizes that do not divide.
        """
        self.check_options()
        if not self.depth:
            return x
        init = functools.partial(self.init_blocks, x.shape[-1], channels_of(condition))
        # `param` would compare a device's part with the whole shape once weights exist.
        params = self.get_variable("params", "blocks")
        if params is None:
            params = self.param("blocks", init)
        (y,) = self.run_groups(
            params, init, [Tokens(x, rope, valid, segments, condition, last=last)]
        )
        return y

    def together(self, groups: Sequence[Tokens]) -> list[jax.Array]:
        """What a call returns for each of `groups`, in one pass over the blocks.

        The weights of a layer are gathered once for all groups, which may differ in rows,
        tokens and masks. Call as `stack.apply(params, groups, method="together")`.
        """
        self.check_options()
        if not self.depth:
            return [group.x for group in groups]
        x, condition = groups[0].x, groups[0].condition
        init = functools.partial(self.init_blocks, x.shape[-1], channels_of(condition))
        return self.run_groups(self.get_variable("params", "blocks"), init, groups)

    @nn.nowrap
    def check_options(self) -> None:
        """Raise ValueError for an unknown `remat` and for wrong `levels`."""
        if self.remat not in ("none", *POLICIES):
            raise ValueError(
                f"remat is {self.remat!r}; expected 'none' or one of {list(POLICIES)}"
            )
        if self.levels and (
            self.levels[-1] != self.depth - 1
            or sorted({*self.levels}) != [*self.levels]
        ):
            raise ValueError(
                f"levels are {self.levels}; expected ascending numbers of blocks that end "
                f"with {self.depth - 1}"
            )

    @nn.nowrap
    def run_groups(self, params, init, groups: Sequence[Tokens]) -> list[jax.Array]:
        """All blocks on each of `groups`; init: key -> boxed weights, for their layouts."""
        placed = [
            place(group, kernel=self.attention, mask=self.mask) for group in groups
        ]
        assert not self.levels or all(one.last is None for one in placed)
        parts = [(one.segments, one.ways, one.mask, one.last) for one in placed]
        run = functools.partial(self.run, parts=parts)
        arrays = [one.arrays for one in placed]
        like = [one.like for one in placed]
        ys = self.on_mesh(run, init, params, (arrays,), like=like)
        return [
            y if one.order is None else token_order.permute(y, one.inverse, one.order)
            for y, one in zip(ys, placed, strict=True)
        ]

    @nn.nowrap
    def make_cache(self, batch: int, capacity: int, width: int) -> Cache:
        """An empty key-value cache of `capacity` tokens for tokens of this width.

        Inside shard_map, `batch` is a device's rows, and the cache has its heads only.
        """
        mesh = current_mesh()
        ways = mesh.shape["tensor"] if mesh is not None and mesh.manual_axes else 1
        options = self.options(width, ways)
        return empty_cache(
            self.depth, batch, capacity, options.kv_heads, options.head_dim, self.dtype
        )

    def extend(
        self,
        x: jax.Array,
        cache: Cache,
        rope=None,
        condition: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """All blocks on tokens [B, n, D] that follow those of the cache: ([B, n, D], cache).

        Call as `stack.apply(params, x, cache, method="extend")`. It equals the pass over
        all tokens at once. rope and condition are those of the new tokens. Attention is
        `chunked`: the position of the queries is traced. The caller keeps
        length + n <= capacity; beyond that the output is NaN.

        Raises ValueError unless the mask is causal or block-causal and n whole steps.
        """
        B, n, D = x.shape
        step = self.mask.step_tokens
        if not step:
            raise ValueError(
                "extend needs a causal or block-causal mask: with full attention, new "
                "tokens would change the features of earlier ones"
            )
        if n % step or n > cache.capacity:
            raise ValueError(
                f"extend got {n} tokens; expected a multiple of the mask's {step} tokens "
                f"per step, up to the cache's capacity of {cache.capacity}"
            )
        params = self.get_variable("params", "blocks")
        init = functools.partial(self.init_blocks, D, channels_of(condition))
        arrays = x, rope, condition, cache
        like = x, cache
        return self.on_mesh(self.run_cached, init, params, arrays, like=like)

    @nn.nowrap
    def options(
        self, width: int, tensor: int = 1, mask: Mask | None = None
    ) -> AttentionOptions:
        """Attention options of one of `tensor` devices that share the heads.

        mask: by default that of the stack.
        """
        kv_heads = self.kv_heads or self.heads
        if self.heads % kv_heads:
            raise ValueError(
                f"kv_heads is {kv_heads}; expected a divisor of {self.heads} heads"
            )
        return AttentionOptions(
            heads=self.heads // tensor,
            kv_heads=kv_heads // tensor,
            head_dim=self.head_dim or width // self.heads,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            kernel=self.attention,
            mask=self.mask if mask is None else mask,
        )

    @nn.nowrap
    def block(self, width: int, tensor: int = 1, mask: Mask | None = None) -> Block:
        """A block with a device's part of the heads and of the hidden channels."""
        options, hidden = self.options(width, tensor, mask), self.hidden // tensor
        return Block(options, hidden, self.eps, self.dtype, parent=None)

    @nn.nowrap
    def init_blocks(self, width: int, channels: int | None, key):
        """Boxed weights of all blocks, stacked; `channels` of the condition, or None."""
        one = jnp.zeros((1, 8, width), self.dtype)
        vector = None if channels is None else jnp.zeros((1, channels), self.dtype)
        block = self.block(width)

        def init(key):
            return block.init(key, one, None, None, (8,), condition=vector)

        params = jax.vmap(init)(jax.random.split(key, self.depth))
        return name_layers(params["params"], self.depth, self.rescale)

    @nn.nowrap
    def on_mesh(self, run, init, params, arrays, *, like):
        """run(params, *arrays), on each device's part where there is a mesh.

        like: arrays with the shapes of what `run` returns.
        """
        mesh = current_mesh()
        if mesh is None:
            return run(params, *arrays)
        tensor = self.check_tensor(mesh)
        weight_specs = partition_specs(mesh, jax.eval_shape(init, jax.random.key(0)))
        shard = Shard(heads="tensor" if tensor > 1 else None)
        local = functools.partial(
            run, weight_specs=weight_specs, shard=shard, tensor=tensor
        )
        if mesh.manual_axes:
            return local(params, *arrays)

        def layout(x):
            return partition_spec(mesh, logical_axes(x), x.shape)

        on_parts = jax.shard_map(
            local,
            in_specs=(weight_specs, *jax.tree.map(layout, arrays)),
            out_specs=jax.tree.map(layout, like),
            check_vma=False,
        )
        return on_parts(params, *arrays)

    @nn.nowrap
    def check_tensor(self, mesh) -> int:
        """Devices that share the heads; raises ValueError where they do not divide them."""
        tensor = mesh.shape["tensor"]
        sizes = {"heads": self.heads, "hidden channels": self.hidden}
        if self.kv_heads:
            sizes["kv_heads"] = self.kv_heads
        for name, size in sizes.items():
            if size % tensor:
                fits = [
                    n
                    for n in range(1, tensor)
                    if not any(s % n for s in sizes.values())
                ]
                raise ValueError(
                    f"mesh.tensor {tensor} does not divide {size} {name}; use {max(fits)}"
                )
        return tensor

    @nn.nowrap
    def run(
        self,
        params,
        groups,
        *,
        parts,
        weight_specs=None,
        shard: Shard = WHOLE,
        tensor: int = 1,
    ):
        """All blocks on one device's part of each group: a list of outputs.

        groups: `arrays` of Placed. parts: its `segments`, `ways`, `mask` and `last`.
        weight_specs: the layouts of the blocks' weights.
        """
        xs, calls, shards, ends = [], [], [], []
        for arrays, (segments, ways, mask, last) in zip(groups, parts, strict=True):
            own = shard._replace(tokens="sequence" if ways > 1 else None)
            x, rope, seen, condition = local_arrays(arrays, own.tokens)
            block = self.block(x.shape[-1], tensor, mask)
            xs.append(x)
            calls.append((block, (rope, seen, segments, own, condition)))
            shards.append(own)
            # Devices that share the tokens of a clip compute all of theirs.
            ends.append(None if own.tokens else last)

        def body(xs, weights, ends=None):
            weights = {"params": self.gather_layer(weights, weight_specs)}
            given = zip(xs, calls, ends or [None] * len(calls), strict=True)
            return [
                block.apply(weights, x, *args, last=last)[0]
                for x, (block, args), last in given
            ], None

        end, outputs = functools.partial(body, ends=ends), []
        if self.remat != "none":
            policy = {"prevent_cse": False, "policy": POLICIES[self.remat]}
            body, end = (jax.checkpoint(f, **policy) for f in (body, end))
            # Whether the last block computes less than the others, and is not scanned.
            alone = any(last is not None for last in ends)
            stops = range(self.depth)[-2:] if alone else self.levels
            pieces = stretches(params, tuple(stops))
            for piece in pieces[:-1] if alone else pieces:
                xs, _ = jax.lax.scan(body, xs, piece)
                outputs.append(xs)
            if alone:
                xs, _ = end(xs, jax.tree.map(lambda w: w[0], pieces[-1]))
        else:
            for i, weights in enumerate(unstack(params, self.depth)):
                xs, _ = (end if i == self.depth - 1 else body)(xs, weights)
                if i in self.levels:
                    outputs.append(xs)
        if self.levels:
            xs = [jnp.concatenate(levels, -1) for levels in zip(*outputs, strict=True)]
        xs = [
            jax.lax.all_gather(x, own.tokens, axis=1, tiled=True) if own.tokens else x
            for x, own in zip(xs, shards, strict=True)
        ]
        return [
            x if last is None else x[:, x.shape[1] - last :]
            for x, (*_, last) in zip(xs, parts, strict=True)
        ]

    @nn.nowrap
    def run_cached(
        self,
        params,
        x,
        rope,
        condition,
        cache: Cache,
        *,
        weight_specs=None,
        shard: Shard = WHOLE,
        tensor: int = 1,
    ):
        """All blocks on tokens that follow those of the cache: (x, cache)."""
        block, n = self.block(x.shape[-1], tensor), x.shape[1]

        def body(carry, layer):
            x, cache = carry
            index, weights = layer
            weights = self.gather_layer(weights, weight_specs)
            args = (x, rope, None, (n,), shard, condition, LayerCache(cache, index))
            after: tuple[Any, Any] = block.apply({"params": weights}, *args)
            x, (cache, _) = after
            return (x, cache), None

        full = cache.length + n > cache.capacity
        if self.depth:
            layers = jnp.arange(self.depth), params
            (x, cache), _ = jax.lax.scan(body, (x, cache), layers)
        x = jnp.where(full, jnp.nan, x)
        return x, cache._replace(length=cache.length + n)

    @nn.nowrap
    def gather_layer(self, weights, specs):
        """Weights of a layer, whole but for `tensor`; specs are those of the stack."""
        if specs is None:
            return weights

        def whole(path, weight, spec):
            dtype = self.dtype if is_kernel(path_name(path)) else weight.dtype
            return gather_weight(weight, PartitionSpec(*spec[1:]), dtype)

        return jax.tree_util.tree_map_with_path(whole, weights, specs)


def channels_of(condition) -> int | None:
    return None if condition is None else condition.shape[-1]


def logical_axes(x) -> tuple[str | None, ...]:
    """Of an argument of the stack: rows first; of a cache, [depth, B, M, heads, d]."""
    if x.ndim == 5:
        return (None, "batch", None, "heads", None)
    return ("batch", None, None, None)[: x.ndim]
