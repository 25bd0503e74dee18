"""The V-JEPA step in PyTorch, written for speed; `launch.bench --peer=torch`.

What a careful author of the step would do: one compiled program for the loss and its
gradient, fused attention, q, k and v in one product, both mask patterns in one pass, only
the context's patches embedded, rotary tables taken by index, frozen targets without a graph.
"""

import torch

from jepa.perf import torch_parts as parts
from jepa.perf.torch_masked import MaskedPrediction, normalize

VERSIONS = parts.VERSIONS


class Program(MaskedPrediction):
    """The step of V-JEPA."""

    def encode(self, network, patches, index, sizes):
        """Features of patches uint8 [B, n, P, 3] at `index` [B or 1, n]."""
        x = parts.linear(network["embed"], parts.standardize(patches, self.settings))
        rope, heads = self.rope("encoder", index), self.settings["encoder_heads"]
        x = parts.run_blocks(network["blocks"], x, rope, sizes, heads=heads)
        return parts.layer_norm(network["norm"], x)

    def compute(self):
        """Mean over patterns of the mean absolute error at target tokens."""
        given, sizes = self.given, self.settings["sizes"]
        context, target = given["context"], given["target"]
        patches = parts.patches_of(given["video"], self.settings["patch"])
        with torch.no_grad():
            N = patches.shape[1]
            truth = self.encode(self.teacher, patches, torch.arange(N)[None], [N])
            truth = parts.take(normalize(truth), target)
        seen = parts.take(patches, context)
        x = self.encode(self.networks["encoder"], seen, context, sizes["context"])
        w = self.networks["predictor"]
        x = parts.linear(w["embed"], x).split(sizes["context"], 1)
        hidden = [
            w["mask_tokens"][0].expand(len(y), m, -1)
            for y, m in zip(x, sizes["target"], strict=True)
        ]
        index = parts.in_turn(
            context.split(sizes["context"], 1), target.split(sizes["target"], 1)
        )
        _, x = self.predict(x, hidden, self.rope("predictor", index))
        x = parts.linear(w["proj"], parts.layer_norm(w["norm"], x))
        error = (x - truth).abs()
        return torch.stack([e.mean() for e in error.split(sizes["target"], 1)]).mean()
