"""The step of LeVJEPA in PyTorch, written for speed; see peer_torch_pretrain.py.

Colors of views and directions of SIGReg are given; the last block computes the summary token
alone.
"""

import torch
import torch.nn.functional as F

from jepa.perf import torch_parts as parts

VERSIONS = parts.VERSIONS
LUMA = (0.299, 0.587, 0.114)


class Program:
    """The networks of a folder of jepa.perf.peer; attributes as in torch_masked."""

    def __init__(self, folder):
        self.settings, weights, self.given = parts.read_given(folder)
        heads = self.settings["encoder_heads"]
        self.encoder = parts.make_network(weights, "encoder", heads)
        self.projector = parts.make_network(weights, "projector")
        self.trained = parts.tensors_of([self.encoder, self.projector])
        self.averaged = self.averages = []
        self.loss = torch.compile(self.compute, dynamic=False)

    def summary(self, x, index, grid):
        """The summary token's features of standardized patches [B, n, p]: [B, D]."""
        w, n = self.encoder, x.shape[1]
        x = parts.linear(w["embed"], x)
        x = torch.cat([x, w["summary"].expand(len(x), 1, -1)], 1)
        index = F.pad(index, (0, 1))  # the summary token has position 0
        rope = tuple(self.given[f"{grid}_{name}"][index] for name in ("cos", "sin"))
        heads = self.settings["encoder_heads"]
        x = parts.run_blocks(w["blocks"], x, rope, [n + 1], heads=heads, last=1)
        return parts.layer_norm(w["norm"], x)[:, 0]

    def compute(self):
        """Distance of all views to the global one, plus SIGReg."""
        given, w = self.given, self.projector
        B, V, m, p = given["local_patches"].shape
        whole = given["patches"].unflatten(-1, (-1, 3))
        first = self.summary(
            parts.standardize(whole, self.settings), given["index"], "global"
        )
        local = given["local_patches"].reshape(B * V, m, p // 3, 3)
        local = self.jitter(local, given["local_mean"].flatten(0, 1))
        rest = self.summary(local, given["local_index"].flatten(0, 1), "local")
        x = torch.cat([first[:, None], rest.reshape(B, V, -1)], 1)
        x = parts.batch_norm(parts.linear(w["up"], x), w["scale"], w["bias"])
        z = parts.linear(w["down"], F.gelu(x))
        invariance = (z[:, :1] - z).square().mean()
        normal = parts.sigreg(z.transpose(0, 1), given["directions"])
        return invariance + self.settings["sigreg_weight"] * normal

    def jitter(self, patches, mean):
        """Brightness, contrast, saturation, hue and gray of views, then standardized."""
        factors = self.given["colour"].flatten(0, 1).T[..., None, None]
        brightness, contrast, saturation, turns, less = factors
        colors = [(x / 255 * brightness).clamp(0, 1) for x in patches.unbind(-1)]
        level = gray(mean.T[..., None, None]) * brightness
        colors = [(level + (x - level) * contrast).clamp(0, 1) for x in colors]
        luma = gray(colors)
        colors = turn(
            [(luma + (x - luma) * saturation).clamp(0, 1) for x in colors], turns
        )
        luma = gray(colors)
        pixels = torch.stack([x + less * (luma - x) for x in colors], -1)
        return parts.standardize(255 * pixels, self.settings)


def gray(colors):
    return sum(weight * color for weight, color in zip(LUMA, colors, strict=True))


def turn(colors, turns):
    """Hue shifted by `turns` of the color circle, as in HSV."""
    red, green, blue = colors
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = torch.where(chroma > 0, chroma, 1)
    other = torch.where(
        value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe
    )
    sector = torch.where(value == red, (green - blue) / safe, other)
    found = []
    for start in (5, 3, 1):
        place = (start + sector + 6 * turns) % 6
        found.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return found
