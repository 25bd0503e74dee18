"""The V-JEPA step in PyTorch, written for speed; `launch.bench --peer=torch`.

What a careful author of the step would do: one compiled program for the loss and its
gradient, fused attention, q, k and v in one product, both mask patterns in one pass, only
the context's patches embedded, rotary tables taken by index, frozen targets without a graph.
"""

import torch
import torch.nn.functional as F

from jepa.perf import torch_parts as parts

VERSIONS = parts.VERSIONS


class Program:
    """The networks of a folder of jepa.perf.peer, and their loss on its batch.

    Attributes:
      trained, averaged: lists of tensors; averages: of `averaged`, in its order.
    """

    def __init__(self, folder):
        self.settings, weights, self.given = parts.read_given(folder)
        self.networks = {
            name: parts.make_network(weights, name, self.settings[f"{name}_heads"])
            for name in ("encoder", "predictor")
        }
        self.teacher = parts.copy_of(self.networks["encoder"])
        self.trained = parts.tensors_of(self.networks)
        self.averaged = parts.tensors_of(self.networks["encoder"])
        self.averages = parts.tensors_of(self.teacher)
        self.loss = torch.compile(self.compute, dynamic=False)

    def encode(self, network, patches, index, sizes):
        """Features of patches uint8 [B, n, P, 3] at `index` [B or 1, n]."""
        rope = tuple(self.given[f"encoder_{name}"][index] for name in ("cos", "sin"))
        x = parts.linear(network["embed"], parts.standardize(patches, self.settings))
        heads = self.settings["encoder_heads"]
        x = parts.run_blocks(network["blocks"], x, rope, sizes, heads=heads)
        return parts.layer_norm(network["norm"], x)

    def compute(self):
        """Mean over patterns of the mean absolute error at target tokens."""
        given, sizes, networks = self.given, self.settings["sizes"], self.networks
        context, target = given["context"], given["target"]
        patches = parts.patches_of(given["video"], self.settings["patch"])
        with torch.no_grad():
            N = patches.shape[1]
            truth = self.encode(self.teacher, patches, torch.arange(N)[None], [N])
            truth = F.layer_norm(truth, truth.shape[-1:], eps=1e-5)
            truth = parts.take(truth, target)
        seen = parts.take(patches, context)
        x = self.encode(networks["encoder"], seen, context, sizes["context"])
        predictor = networks["predictor"]
        x = parts.linear(predictor["embed"], x)
        token = predictor["mask_tokens"][0]
        hidden = [token.expand(len(x), m, -1) for m in sizes["target"]]
        x = parts.in_turn(x.split(sizes["context"], 1), hidden)
        index = parts.in_turn(
            context.split(sizes["context"], 1), target.split(sizes["target"], 1)
        )
        rope = tuple(given[f"predictor_{name}"][index] for name in ("cos", "sin"))
        both = list(zip(sizes["context"], sizes["target"], strict=True))
        x = parts.run_blocks(
            predictor["blocks"], x, rope, [c + m for c, m in both],
            heads=self.settings["predictor_heads"],
        )  # fmt: skip
        x = torch.cat(x.split([n for pair in both for n in pair], 1)[1::2], 1)
        x = parts.linear(predictor["proj"], parts.layer_norm(predictor["norm"], x))
        error = (x - truth).abs()
        return torch.stack([e.mean() for e in error.split(sizes["target"], 1)]).mean()
