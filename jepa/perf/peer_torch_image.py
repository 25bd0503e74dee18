"""The step of I-JEPA in PyTorch, written for speed; see peer_torch_pretrain.py.

The context is encoded once; its four targets are predicted in one pass.
"""

import torch
import torch.nn.functional as F

from jepa.perf import torch_parts as parts
from jepa.perf.torch_masked import MaskedPrediction, normalize

VERSIONS = parts.VERSIONS


class Program(MaskedPrediction):
    """The step of I-JEPA."""

    rotary = False

    def encode(self, network, patches, index):
        """Features of patches uint8 [B, n, P, 3] at `index` [B or 1, n]."""
        x = parts.linear(network["embed"], parts.standardize(patches, self.settings))
        x = x + self.given["encoder_added"][index]
        heads = self.settings["encoder_heads"]
        x = parts.run_blocks(network["blocks"], x, None, [x.shape[1]], heads=heads)
        return parts.layer_norm(network["norm"], x)

    def compute(self):
        """Mean over blocks of the smooth L1 error at their tokens."""
        given, sizes = self.given, self.settings["sizes"]
        context, target = given["context"], given["target"]
        patches = parts.patches_of(given["video"], self.settings["patch"])
        with torch.no_grad():
            everywhere = torch.arange(patches.shape[1])[None]
            truth = self.encode(self.teacher, patches, everywhere)
            truth = parts.take(normalize(truth), target)
        once = context[:, : sizes["context"][0]]
        seen = parts.take(patches, once)
        x = self.encode(self.networks["encoder"], seen, once)
        w, added = self.networks["predictor"], given["predictor_added"]
        x = parts.linear(w["embed"], x) + added[once]
        goals = target.split(sizes["target"], 1)
        hidden = [w["mask_tokens"][0] + added[goal] for goal in goals]
        _, x = self.predict([x] * len(goals), hidden, None)
        x = parts.linear(w["proj"], parts.layer_norm(w["norm"], x))
        return F.smooth_l1_loss(x, truth)
