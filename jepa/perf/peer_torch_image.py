"""The step of I-JEPA in PyTorch, written for speed; see peer_torch_pretrain.py.

The context is encoded once; its four targets are predicted in one pass.
"""

import torch
import torch.nn.functional as F

from jepa.perf import torch_parts as parts

VERSIONS = parts.VERSIONS


class Program:
    """The networks of a folder of jepa.perf.peer; attributes as in peer_torch_pretrain."""

    def __init__(self, folder):
        self.settings, weights, self.given = parts.read_given(folder)
        self.networks = {
            name: parts.make_network(weights, name, rotary=False)
            for name in ("encoder", "predictor")
        }
        self.teacher = parts.copy_of(self.networks["encoder"])
        self.trained = parts.tensors_of(self.networks)
        self.averaged = parts.tensors_of(self.networks["encoder"])
        self.averages = parts.tensors_of(self.teacher)
        self.loss = torch.compile(self.compute, dynamic=False)

    def encode(self, network, patches, index):
        """Features of patches uint8 [B, n, P, 3] at `index` [B or 1, n]."""
        x = parts.linear(network["embed"], parts.standardize(patches, self.settings))
        x = x + self.given["encoder_added"][index]
        heads = self.settings["encoder_heads"]
        x = parts.run_blocks(network["blocks"], x, None, [x.shape[1]], heads=heads)
        return parts.layer_norm(network["norm"], x)

    def compute(self):
        """Mean over blocks of the smooth L1 error at their tokens."""
        given, sizes, networks = self.given, self.settings["sizes"], self.networks
        context, target = given["context"], given["target"]
        patches = parts.patches_of(given["video"], self.settings["patch"])
        with torch.no_grad():
            everywhere = torch.arange(patches.shape[1])[None]
            truth = self.encode(self.teacher, patches, everywhere)
            truth = F.layer_norm(truth, truth.shape[-1:], eps=1e-5)
            truth = parts.take(truth, target)
        once = context[:, : sizes["context"][0]]
        x = self.encode(networks["encoder"], parts.take(patches, once), once)
        w, added = networks["predictor"], given["predictor_added"]
        x = parts.linear(w["embed"], x) + added[once]
        goals = target.split(sizes["target"], 1)
        hidden = [w["mask_tokens"][0] + added[goal] for goal in goals]
        x = parts.in_turn([x] * len(goals), hidden)
        both = list(zip(sizes["context"], sizes["target"], strict=True))
        x = parts.run_blocks(
            w["blocks"], x, None, [c + m for c, m in both],
            heads=self.settings["predictor_heads"],
        )  # fmt: skip
        x = torch.cat(x.split([n for pair in both for n in pair], 1)[1::2], 1)
        x = parts.linear(w["proj"], parts.layer_norm(w["norm"], x))
        return F.smooth_l1_loss(x, truth)
