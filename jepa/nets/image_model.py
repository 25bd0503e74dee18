"""I-JEPA's encoder: V-JEPA's on single images, and on clips frame by frame."""

import jax.numpy as jnp

from core.section import Section
from jepa.nets.model import Encoder, Predictor, encoder_size


class ImageEncoder(Encoder):
    """Vision transformer over patches of one frame; frames of a clip do not see each other.

    The patch has one frame (arXiv 2301.08243).
    """

    def __call__(self, patches, index=None, *, grid, valid=None, segments=None):
        """Patches [B, n, p] -> features [B, n, width]; see jepa.nets.model.Encoder.

        A grid of several time steps takes all patches of all of them, in order.
        """
        t, h, w = grid
        if t == 1:
            return super().__call__(
                patches, index, grid=grid, valid=valid, segments=segments
            )
        B, n, p = patches.shape
        assert index is None and n == t * h * w, (n, grid)
        frames = patches.reshape(B * t, h * w, p)
        return super().__call__(frames, grid=(1, h, w)).reshape(B, n, self.width)


def make_image_networks(
    *, dtype: str, encoder: Section, predictor: Section
) -> tuple[ImageEncoder, Predictor]:
    """Encoder and predictor from the config sections of these names.

    Raises ValueError for a patch of several frames, and for fields that the networks do not
    have.
    """
    first = encoder.without("size").into(
        ImageEncoder, **encoder_size(encoder["size"]), dtype=jnp.dtype(dtype)
    )
    if first.patch[0] != 1:
        raise ValueError(
            f"encoder.patch is {first.patch}, but an image has one frame; use "
            f"{(1, *first.patch[1:])}"
        )
    shared = ("positions", "rescale", "remat", "attention", "dtype")
    second = predictor.into(
        Predictor,
        out=first.width,
        mask_tokens=1,
        **{name: getattr(first, name) for name in shared},
    )
    return first, second
