"""The training step of LeWorldModel with the networks and SIGReg of stable-worldmodel 0.1.1.

They have our weights; the encoder "conv", which the package lacks, is that of
jepa.perf.peer_torch_lewm, not compiled. The package trains without compilation, too.
"""

from unittest import mock

import torch
from stable_worldmodel.wm.lewm.module import (
    MLP,
    ConditionalBlock,
    Embedder,
    Transformer,
)
from stable_worldmodel.wm.loss import SIGReg

from jepa.perf import peer_torch_lewm, torch_parts

# Of a block, in the order of the package.
BLOCK = ("norm_attention", "qkv", "out", "norm_mlp", "up", "down", "modulation")
VERSIONS = f"stable-worldmodel 0.1.1, torch {torch.__version__}"


class Program:
    """The networks of a folder of jepa.perf.peer; attributes as in torch_masked."""

    averaged = averages = ()

    def __init__(self, folder):
        self.ours = peer_torch_lewm.Program(folder)
        self.settings, given = self.ours.settings, self.ours.given
        w, depth = self.ours.w, self.settings["depth"]
        self.predictor, heads = w["predictor"], self.settings["predictor_heads"]
        layers = (w["action"]["smooth"], w["action"]["up"], w["action"]["down"])
        rows = [layer["weight"].shape[0] for layer in layers]
        width, qkv = rows[2], self.predictor["block0/qkv"]["weight"].shape[0]
        actions = Embedder(given["action"].shape[-1], rows[0], width, rows[1] // width)
        transformer = Transformer(
            width, width, width, depth, heads, qkv // (3 * heads),
            self.predictor["block0/up"]["weight"].shape[0], block_class=ConditionalBlock,
        )  # fmt: skip
        fill(actions, layers)
        order = [f"block{i}/{name}" for i in range(depth) for name in BLOCK]
        fill(transformer, [self.predictor[name] for name in ("norm", *order)])
        self.actions, self.transformer = actions, transformer
        self.projector, self.pred_proj = (
            projector(w[name]) for name in ("projector", "pred_proj")
        )
        self.sigreg = SIGReg(self.settings["knots"], given["directions"].shape[1])
        ours = [
            w["encoder"],
            self.predictor["positions"],
            self.predictor.get("embed", []),
        ]
        modules = (actions, transformer, self.projector, self.pred_proj)
        self.trained = torch_parts.tensors_of(ours)
        self.trained += [x for module in modules for x in module.parameters()]

    def loss(self):
        """As peer_torch_lewm.Program.compute."""
        given = self.ours.given
        images = given["image"]
        z = self.projector(self.ours.encode(images.flatten(0, 1)))
        z = z.unflatten(0, images.shape[:2])
        x = z[:, :-1] + self.predictor["positions"][: z.shape[1] - 1]
        if "embed" in self.predictor:
            x = torch_parts.linear(self.predictor["embed"], x)
        x = self.transformer(x, self.actions(given["action"]))
        guess = self.pred_proj(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        with mock.patch.object(torch, "randn", lambda *size, device: self.directions()):
            normal = self.sigreg(z.transpose(0, 1))
        error = (guess - z[:, 1:]).pow(2).mean()
        return error + self.settings["sigreg_weight"] * normal

    def directions(self):
        """A copy of those of our first step; the package scales them in place."""
        return self.ours.given["directions"].clone()


def projector(w: dict) -> MLP:
    """An MLP with batch norm of these weights."""
    hidden, features = w["up"]["weight"].shape
    made = MLP(features, hidden, w["down"]["weight"].shape[0], torch.nn.BatchNorm1d)
    fill(made, [w["up"], {"weight": w["scale"], "bias": w["bias"]}, w["down"]])
    return made


def fill(module, layers) -> None:
    """Copy weights and biases of layers into a module's parameters, in its own order.

    Raises ValueError if their number or a shape differs.
    """
    values = [layer[k] for layer in layers for k in ("weight", "bias") if k in layer]
    with torch.no_grad():
        for parameter, x in zip(module.parameters(), values, strict=True):
            parameter.copy_(x.reshape(parameter.shape))
