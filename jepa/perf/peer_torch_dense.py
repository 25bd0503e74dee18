"""The step of V-JEPA 2.1 in PyTorch, written for speed; see peer_torch_pretrain.py.

Clips and images are two passes, as in ours; weights of visible tokens are given.
"""

import torch
import torch.nn.functional as F

from jepa.perf import torch_parts as parts
from jepa.perf.torch_masked import MaskedPrediction, normalize

VERSIONS = parts.VERSIONS
ROWS = {"": 1, "image_": 0}  # of the learned vectors of modalities


class Program(MaskedPrediction):
    """The step of V-JEPA 2.1."""

    def compute(self):
        """The weighted sum of the losses of clips and of images."""
        share, total = self.settings["image_share"], 0.0
        for prefix, part in (("", 1 - share), ("image_", share)):
            if part:
                total = total + part * self.one(prefix)
        return total

    def encode(self, prefix, network, patches, index, sizes):
        """All levels side by side, [B, n, levels D], each with a norm of its own."""
        name = "embed_image" if prefix else "embed"
        x = parts.linear(network[name], parts.standardize(patches, self.settings))
        x = x + network["modality"][ROWS[prefix]]
        x = parts.run_blocks(
            network["blocks"], x, self.rope(f"{prefix}encoder", index), sizes,
            heads=self.settings["encoder_heads"], levels=self.settings["levels"],
        )  # fmt: skip
        norms = network["norms"]
        x = normalize(x.unflatten(-1, norms["weight"].shape), 1e-6)
        return (x * norms["weight"] + norms["bias"]).flatten(2)

    def one(self, prefix):
        """Errors at hidden tokens, and weighted ones at visible tokens."""
        given, sizes = self.given, self.settings[f"{prefix}sizes"]
        context, target = given[f"{prefix}context"], given[f"{prefix}target"]
        video, patch = given["video"], self.settings["patch"]
        if prefix:
            video, patch = video[:, :1], [1, *patch[1:]]
        patches = parts.patches_of(video, patch)
        with torch.no_grad():
            N, levels = patches.shape[1], len(self.settings["levels"])
            everywhere = torch.arange(N)[None]
            truth = self.encode(prefix, self.teacher, patches, everywhere, [N])
            truth = normalize(truth.unflatten(-1, (levels, -1))).flatten(2)
        seen = parts.take(patches, context)
        x = self.encode(
            prefix, self.networks["encoder"], seen, context, sizes["context"]
        )
        hidden, visible = self.both(prefix, x, context, target, sizes)
        gap = (hidden - parts.take(truth, target)).abs()
        terms = [x.mean() for x in gap.split(sizes["target"], 1)]
        gap = (visible - parts.take(truth, context)).abs().mean(-1)
        gap = gap * given[f"{prefix}context_weight"]
        more = [x.sum(1).mean() for x in gap.split(sizes["context"], 1)]
        weight = self.settings[f"{prefix}weight"]
        return torch.stack(terms).mean() + weight * torch.stack(more).mean()

    def both(self, prefix, x, context, target, sizes):
        """All levels at hidden and at visible tokens."""
        w = self.networks["predictor"]
        x = F.gelu(parts.linear(w["mix"], x)) if "mix" in w else x
        kind = w["modality"][ROWS[prefix]]
        x = (parts.linear(w["embed"], x) + kind).split(sizes["context"], 1)
        token = w["mask_tokens"][0] + kind
        hidden = [
            token.expand(len(y), m, -1) for y, m in zip(x, sizes["target"], strict=True)
        ]
        index = parts.in_turn(
            context.split(sizes["context"], 1), target.split(sizes["target"], 1)
        )
        found = self.predict(x, hidden, self.rope(f"{prefix}predictor", index))
        visible, hidden = (parts.layer_norm(w["norm"], y) for y in found)
        return parts.linear(w["proj"], hidden), parts.linear(w["proj_context"], visible)
