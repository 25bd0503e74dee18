"""Rematerialization policies of transformer blocks: what the backward pass recomputes."""

import jax

# Outputs that each kind of rematerialization keeps besides the input of each block.
FUSED = ("dot_product_attention_fwd_wrapper",)  # cuDNN's primitive
NAMED = jax.checkpoint_policies.save_only_these_names("attention")
LINEAR = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def keep_attention(primitive, *args, **params):
    """Checkpoint policy: saves the outputs of attention kernels."""
    return primitive.name in FUSED or NAMED(primitive, *args, **params)


def keep_dots(primitive, *args, **params):
    """Checkpoint policy: saves the outputs of linear layers and of attention kernels."""
    kept = LINEAR(primitive, *args, **params)
    return kept or keep_attention(primitive, *args, **params)


POLICIES = {"block": None, "attention": keep_attention, "dots": keep_dots}
