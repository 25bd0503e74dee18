"""A plan of LeWorldModel in PyTorch, written for speed (`launch.bench --peer=torch`).

What a careful author would do: one compiled program for a round of the search, batch norm
folded into the linear layers, q, k and v in one product, actions embedded once per round for
all blocks, in the last block only the last step, and no attention over a single step. It needs
PyTorch and numpy, nothing of JAX.
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

VERSIONS = f"torch {torch.__version__}, compiled"


class Program:
    """The weights of a folder of jepa.perf.plan_peer as tensors, and plans with them."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.about = json.loads((folder / "plan.json").read_text())
        with np.load(folder / "plan.npz") as found:
            arrays = {k: torch.from_numpy(found[k]) for k in found.files}
        self.given = {k: arrays.pop(k) for k in ("image", "goal", "plans")}
        self.weights = arrays
        self.up = {k: self.folded(k) for k in ("projector", "pred_proj")}
        self.step = torch.compile(self.round, dynamic=False)
        self.generator = torch.Generator().manual_seed(0)

    def linear(self, name, x):
        """x times the kernel [in, out] of a layer, plus its bias."""
        w = self.weights
        y = x @ w[f"{name}/kernel"]
        return y + w[f"{name}/bias"] if f"{name}/bias" in w else y

    def norm(self, name, x):
        scale, bias = (self.weights[f"{name}/{k}"] for k in ("scale", "bias"))
        return F.layer_norm(x, scale.shape, scale, bias, 1e-5)

    def folded(self, name):
        """(kernel, bias) of a projector's first layer with its batch norm inside."""
        w = self.weights
        rate = w[f"{name}/scale"] * torch.rsqrt(w[f"norms/{name}/var"] + 1e-5)
        mean = w[f"norms/{name}/mean"]
        bias = (w[f"{name}/up/bias"] - mean) * rate + w[f"{name}/bias"]
        return w[f"{name}/up/kernel"] * rate, bias

    def project(self, name, x):
        kernel, bias = self.up[name]
        return self.linear(f"{name}/down", F.gelu(x @ kernel + bias))

    def encode(self, images):
        """Pictures [B, size, size, 3] of 0..255 -> latents [B, D]."""
        return self.project("projector", self.features(images))

    def features(self, images):
        """The same -> what the encoder gives, [B, features]."""
        encoder = self.about["encoder"]
        mean, std = (torch.tensor(self.about[k]) for k in ("mean", "std"))
        B, size, p = len(images), images.shape[1], encoder["patch"]
        n = size // p
        x = ((images / 255 - mean) / std).reshape(B, n, p, n, p, 3)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(B, n * n, -1)
        x = self.linear("encoder/embed", x)
        return self.convolve(x, n) if encoder["kind"] == "conv" else self.attend_all(x)

    def convolve(self, x, n):
        x = F.gelu(x).reshape(len(x), n, n, -1).permute(0, 3, 1, 2)
        for i in range(len(self.about["encoder"]["channels"]) - 1):
            kernel = self.weights[f"encoder/kernel{i}"].permute(3, 2, 0, 1)
            x = F.pad(x, (0, 1, 0, 1))  # SAME with stride 2, kernel 3 and even sides
            x = F.gelu(F.conv2d(x, kernel, self.weights[f"encoder/bias{i}"], 2))
        return x.permute(0, 2, 3, 1).flatten(1)

    def attend_all(self, x):
        w, heads = self.weights, self.about["encoder"]["heads"]
        cls = w["encoder/cls"].expand(len(x), 1, -1)
        x = torch.cat([cls, x], 1) + w["encoder/positions"]
        eps = self.about["encoder"]["eps"]

        def norm(name, x, i=None):
            scale, bias = (w[f"encoder/{name}/{k}"] for k in ("scale", "bias"))
            if i is not None:
                scale, bias = scale[i], bias[i]
            return F.layer_norm(x, scale.shape, scale, bias, eps)

        def linear(name, x, i):
            place = f"encoder/stack/blocks/{name}"
            return x @ w[f"{place}/kernel"][i] + w[f"{place}/bias"][i]

        for i in range(self.about["encoder"]["depth"]):
            y = norm("stack/blocks/norm1", x, i)
            q, k, v = (
                linear(f"attention/{name}", y, i)
                .unflatten(-1, (heads, -1))
                .transpose(1, 2)
                for name in ("query", "key", "value")
            )
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + linear("attention/out", y, i)
            y = F.gelu(linear("mlp/up", norm("stack/blocks/norm2", x, i), i))
            x = x + linear("mlp/down", y, i)
        return norm("norm", x[:, 0])

    def predict(self, latents, vectors):
        """The latent after the last of T steps: [N, T, D], modulations [N, T, 6 W] by block."""
        w, sizes = self.weights, self.about["predictor"]
        T = latents.shape[1]
        x = latents + w["predictor/positions"][:T]
        if "predictor/embed/kernel" in w:
            x = self.linear("predictor/embed", x)
        for i in range(sizes["depth"]):
            last = slice(-1, None) if i == sizes["depth"] - 1 else slice(None)
            parts = vectors[i].chunk(6, -1)
            shift, scale, gate = parts[:3]
            y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
            y = self.attend(i, self.norm(f"predictor/block{i}/norm_attention", y), last)
            x = x[:, last] + gate[:, last] * y
            shift, scale, gate = (z[:, last] for z in parts[3:])
            y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
            y = F.gelu(
                self.linear(
                    f"predictor/block{i}/up",
                    self.norm(f"predictor/block{i}/norm_mlp", y),
                )
            )
            x = x + gate * self.linear(f"predictor/block{i}/down", y)
        return self.project("pred_proj", self.norm("predictor/norm", x[:, -1]))

    def attend(self, i, x, last):
        """Causal attention, of the queries `last`; one step attends to itself alone."""
        place, sizes = f"predictor/block{i}", self.about["predictor"]
        kernels = [
            self.weights[f"{place}/{k}/kernel"] for k in ("query", "key", "value")
        ]
        if x.shape[1] == 1:
            return self.linear(f"{place}/out", x @ kernels[2])
        shape = (sizes["heads"], sizes["head_dim"])
        q, k, v = (
            z.unflatten(-1, shape).transpose(1, 2)
            for z in (x @ torch.cat(kernels, 1)).chunk(3, -1)
        )
        q = q[:, :, last]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] == k.shape[2])
        return self.linear(f"{place}/out", y.transpose(1, 2).flatten(2))

    def cost(self, start, goal, plans):
        """Squared distance of the last latent to the goal, [B, S].

        start, goal: latents [B, D]. plans: [B, S, H, W].
        """
        B, S, H, width = plans.shape
        window, known = self.about["window"], [start.repeat_interleave(S, 0)]
        x = self.linear("action/smooth", plans.reshape(B * S, H, width))
        x = self.linear("action/down", F.silu(self.linear("action/up", x)))
        x = F.silu(x)
        depth = self.about["predictor"]["depth"]
        vectors = [
            self.linear(f"predictor/block{i}/modulation", x) for i in range(depth)
        ]
        for end in range(1, H + 1):
            seen = slice(max(0, end - window), end)
            given = torch.stack(known[seen], 1)
            known.append(self.predict(given, [v[:, seen] for v in vectors]))
        gap = known[-1].reshape(B, S, -1) - goal[:, None]
        return gap.square().sum(-1)

    def round(self, start, goal, mean, std, noise):
        """(mean, deviation, lowest cost) of the best candidates around a mean [B, H, W]."""
        plans = mean[:, None] + std[:, None] * noise
        plans[:, 0] = mean
        cost, chosen = self.cost(start, goal, plans).topk(
            self.about["best"], dim=1, largest=False
        )
        index = chosen[:, :, None, None].expand(-1, -1, *plans.shape[2:])
        elites = plans.gather(1, index)
        return elites.mean(1), elites.std(1, correction=0), cost[:, 0]

    @torch.inference_mode()
    def check(self):
        """Costs [B, S] of the plans that both programs are given."""
        start, goal = self.encode(self.given["image"]), self.encode(self.given["goal"])
        return self.cost(start, goal, self.given["plans"])

    @torch.inference_mode()
    def plan(self):
        """Plans of B problems by CEM: [B, H, W]."""
        start, goal = self.encode(self.given["image"]), self.encode(self.given["goal"])
        B, _, H, W = self.given["plans"].shape
        mean, std = torch.zeros(B, H, W), torch.ones(B, H, W)
        shape = (B, self.about["candidates"], H, W)
        for _ in range(self.about["rounds"]):
            noise = torch.randn(shape, generator=self.generator)
            mean, std, _ = self.step(start, goal, mean, std, noise)
        return mean
