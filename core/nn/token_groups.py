"""Groups of tokens that share a pass over a stack of blocks, placed on the mesh."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.nn import token_order
from core.nn.blocks import per_token
from core.nn.kernels import VALID_FIRST
from core.nn.masks import Mask
from core.parallel.collectives import current_mesh, local_part


class Tokens(NamedTuple):
    """One input of `Transformer.together`: arguments of a call, and a mask of its own.

    mask: by position in a segment; None is the mask of the stack. last: as of a call.
    """

    x: jax.Array
    rope: Any = None
    valid: jax.Array | None = None
    segments: Sequence[int] | None = None
    condition: jax.Array | None = None
    mask: Mask | None = None
    last: int | None = None


class Placed(NamedTuple):
    """Tokens as devices take them.

    arrays: (x, rope, keys that count, condition), in the order of the devices' parts.
    segments: lengths on one device. ways: devices that share the tokens of a clip.
    order, inverse: permutation of the tokens, and back; None is the order given.
    last: number of last tokens that are wanted; None is all.
    """

    arrays: tuple
    segments: tuple[int, ...]
    ways: int
    mask: Mask
    order: jax.Array | None
    inverse: jax.Array | None
    last: int | None

    @property
    def like(self) -> jax.Array:
        """An array with the shape of the result."""
        x = self.arrays[0]
        return x if self.last is None else x[:, x.shape[1] - self.last :]


def place(tokens: Tokens, *, kernel: str, mask: Mask) -> Placed:
    """Tokens in the order that the kernel and the devices of the mesh need.

    mask: of tokens that have none of their own.
    """
    x, rope, valid, segments, condition, own, last = tokens
    B, N, _ = x.shape
    mesh, mask = current_mesh(), mask if own is None else own
    segments = tuple(segments or (N,))
    ways = 1 if mesh is None else sequence_ways(mesh, segments)
    # An ordered mask needs each segment in its own order.
    first = kernel in VALID_FIRST and not mask.ordered
    order, seen = token_order.arrange(valid, segments, ways, B, first=first)
    if (
        condition is not None
        and condition.ndim == 3
        and (ways > 1 or order is not None)
    ):
        condition = per_token(condition, N)
    inverse = None
    if last is not None:
        assert order is None and seen is None and condition is None
        assert len(segments) == 1
    if order is not None:
        inverse = jnp.argsort(order, axis=1)
        x = token_order.permute(x, order, inverse)
        take = functools.partial(token_order.take, order=order)
        rope = jax.tree.map(take, rope)
        if condition is not None and condition.ndim == 3:
            condition = take(condition)
    local = tuple(n // ways for n in segments)
    arrays = x, rope, seen, condition
    return Placed(arrays, local, ways, mask, order, inverse, last)


def local_arrays(arrays: tuple, mesh_axis: str | None) -> tuple:
    """The part of `arrays` of Placed that a device has whose axis shares out the tokens.

    mesh_axis: None where every device has all of them.
    """
    if mesh_axis is None:
        return arrays
    x, rope, seen, condition = arrays
    local = functools.partial(local_part, mesh_axis)
    x, rope = jax.tree.map(local, (x, rope))
    if condition is not None and condition.ndim == 3:
        condition = local(condition)
    return x, rope, seen, condition


def sequence_ways(mesh, segments) -> int:
    """Devices that share the tokens of a clip; 1 where its one segment does not divide.

    Raises ValueError where one of several segments does not divide.
    """
    ways = mesh.shape["sequence"]
    left = [n for n in segments if n % ways]
    if left and len(segments) > 1:
        near = max(n for n in range(1, ways) if all(s % n == 0 for s in segments))
        raise ValueError(
            f"mesh.sequence {ways} does not divide the {left[0]} tokens of a mask "
            f"pattern; use {near}"
        )
    return 1 if left else ways
