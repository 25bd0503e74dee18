"""The step of V-JEPA 2.1 in PyTorch, written for speed; see peer_torch_pretrain.py.

Clips and images are two passes, as in ours; weights of visible tokens are given.
"""

import torch
import torch.nn.functional as F

from jepa.perf import torch_parts as parts

VERSIONS = parts.VERSIONS
ROWS = {"": 1, "image_": 0}  # of the learned vectors of modalities


class Program:
    """The networks of a folder of jepa.perf.peer; attributes as in peer_torch_pretrain."""

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

    def compute(self):
        """The weighted sum of the losses of clips and of images."""
        share, total = self.settings["image_share"], 0.0
        for prefix, part in (("", 1 - share), ("image_", share)):
            if part:
                total = total + part * self.one(prefix)
        return total

    def rope(self, prefix, network, index):
        return tuple(
            self.given[f"{prefix}{network}_{k}"][index] for k in ("cos", "sin")
        )

    def encode(self, prefix, network, patches, index, sizes):
        """All levels side by side, [B, n, levels D], each with a norm of its own."""
        name = "embed_image" if prefix else "embed"
        x = parts.linear(network[name], parts.standardize(patches, self.settings))
        x = x + network["modality"][ROWS[prefix]]
        x = parts.run_blocks(
            network["blocks"], x, self.rope(prefix, "encoder", index), sizes,
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
            truth = normalize(truth.unflatten(-1, (levels, -1)), 1e-5).flatten(2)
        seen = parts.take(patches, context)
        x = self.encode(
            prefix, self.networks["encoder"], seen, context, sizes["context"]
        )
        hidden, visible = self.predict(prefix, x, context, target, sizes)
        gap = (hidden - parts.take(truth, target)).abs()
        terms = [x.mean() for x in gap.split(sizes["target"], 1)]
        gap = (visible - parts.take(truth, context)).abs().mean(-1)
        gap = gap * given[f"{prefix}context_weight"]
        more = [x.sum(1).mean() for x in gap.split(sizes["context"], 1)]
        weight = self.settings[f"{prefix}weight"]
        return torch.stack(terms).mean() + weight * torch.stack(more).mean()

    def predict(self, prefix, x, context, target, sizes):
        """All levels at hidden and at visible tokens."""
        w = self.networks["predictor"]
        x = F.gelu(parts.linear(w["mix"], x)) if "mix" in w else x
        x = parts.linear(w["embed"], x)
        hidden = [w["mask_tokens"][0].expand(len(x), m, -1) for m in sizes["target"]]
        x = parts.in_turn(x.split(sizes["context"], 1), hidden)
        x = x + w["modality"][ROWS[prefix]]
        index = parts.in_turn(
            context.split(sizes["context"], 1), target.split(sizes["target"], 1)
        )
        both = list(zip(sizes["context"], sizes["target"], strict=True))
        x = parts.run_blocks(
            w["blocks"], x, self.rope(prefix, "predictor", index),
            [c + m for c, m in both], heads=self.settings["predictor_heads"],
        )  # fmt: skip
        found = parts.layer_norm(w["norm"], x).split([n for p in both for n in p], 1)
        hidden, visible = torch.cat(found[1::2], 1), torch.cat(found[::2], 1)
        return parts.linear(w["proj"], hidden), parts.linear(w["proj_context"], visible)


def normalize(x, eps: float):
    return F.layer_norm(x, x.shape[-1:], eps=eps)
