"""The training step of LeWorldModel in PyTorch, written for speed; for encoders "conv".

All pictures of a batch are encoded in one pass, q, k and v are one product, running
statistics of batch norm are kept as ours are. Directions of SIGReg are given.
"""

import torch
import torch.nn.functional as F

from jepa.perf import torch_parts as parts

VERSIONS = parts.VERSIONS
RATE = 0.1  # of the running statistics


class Program:
    """The networks of a folder of jepa.perf.peer; attributes as in torch_masked."""

    def __init__(self, folder):
        self.settings, weights, self.given = parts.read_given(folder)
        names = ("encoder", "projector", "action", "predictor", "pred_proj")
        w = {name: parts.make_network(weights, name) for name in names}
        for i in range(self.settings["depth"]):
            kinds = [f"block{i}/{kind}" for kind in ("query", "key", "value")]
            kernels = [w["predictor"].pop(kind)["weight"] for kind in kinds]
            w["predictor"][f"block{i}/qkv"] = {
                "weight": parts.trained(torch.cat(kernels))
            }
        convolutions = [k for k in w["encoder"] if k.startswith("kernel")]
        for name in convolutions:
            kernel = parts.trained(w["encoder"][name].permute(3, 2, 0, 1))
            w["encoder"][name] = kernel
        self.count, self.w = len(convolutions), w
        self.trained = parts.tensors_of(w)
        self.averaged = self.averages = []
        self.running = {
            name: [
                torch.zeros(len(w[name]["scale"])),
                torch.ones(len(w[name]["scale"])),
            ]
            for name in ("projector", "pred_proj")
        }
        self.loss = torch.compile(self.compute, dynamic=False)

    def compute(self):
        """Squared error of the next latents, plus SIGReg of each time step's latents."""
        given, settings = self.given, self.settings
        images = given["image"]
        x = self.encode(images.flatten(0, 1))
        z = self.project("projector", x).reshape(*images.shape[:2], -1)
        guess = self.project("pred_proj", self.predict(z[:, :-1], given["action"]))
        error = (guess - z[:, 1:]).square().mean()
        normal = parts.sigreg(
            z.transpose(0, 1), given["directions"], knots=settings["knots"]
        )
        return error + settings["sigreg_weight"] * normal

    def encode(self, images):
        """Pictures uint8 [N, H, W, 3] -> features [N, F]."""
        w, p = self.w["encoder"], self.settings["patch"]
        side = images.shape[1] // p
        x = parts.patches_of(images[:, None], [1, p, p])
        x = F.gelu(parts.linear(w["embed"], parts.standardize(x, self.settings)))
        x = x.reshape(len(x), side, side, -1).permute(0, 3, 1, 2)
        for i in range(self.count):
            x = F.pad(x, (0, 1, 0, 1))  # SAME with stride 2, kernel 3 and even sides
            x = F.gelu(F.conv2d(x, w[f"kernel{i}"], w[f"bias{i}"], 2))
        return x.permute(0, 2, 3, 1).flatten(1)

    def project(self, name, x):
        w, running = self.w[name], self.running[name]
        x = parts.linear(w["up"], x)
        y = parts.batch_norm(x, w["scale"], w["bias"])
        with torch.no_grad():
            var, mean = torch.var_mean(x.flatten(0, -2), 0)
            running[0].lerp_(mean, RATE)
            running[1].lerp_(var, RATE)
        return parts.linear(w["down"], F.gelu(y))

    def predict(self, x, blocks):
        """Latents [B, T, D] under actions [B, T, A] -> features [B, T, W]."""
        w, action, settings = self.w["predictor"], self.w["action"], self.settings
        c = parts.linear(action["up"], parts.linear(action["smooth"], blocks))
        c = F.silu(parts.linear(action["down"], F.silu(c)))
        x = x + w["positions"][: x.shape[1]]
        x = parts.linear(w["embed"], x) if "embed" in w else x
        shape = (3, settings["predictor_heads"], -1)
        for i in range(settings["depth"]):
            layers = {
                name: w[f"block{i}/{name}"]
                for name in ("modulation", "qkv", "out", "up", "down")
            }
            norms = [w[f"block{i}/norm_{name}"] for name in ("attention", "mlp")]
            vectors = parts.linear(layers["modulation"], c).chunk(6, -1)
            shift, scale, gate = vectors[:3]
            y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
            qkv = parts.linear(layers["qkv"], parts.layer_norm(norms[0], y, 1e-5))
            q, k, v = qkv.unflatten(-1, shape).unbind(2)
            y = parts.attention(q, k, v, causal=True).flatten(2)
            x = x + gate * parts.linear(layers["out"], y)
            shift, scale, gate = vectors[3:]
            y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
            y = F.gelu(parts.linear(layers["up"], parts.layer_norm(norms[1], y, 1e-5)))
            x = x + gate * parts.linear(layers["down"], y)
        return parts.layer_norm(w["norm"], x, 1e-5)
