"""What steps of masked prediction in PyTorch share: V-JEPA, V-JEPA 2.1, I-JEPA.

Needs PyTorch and numpy, and nothing of JAX.
"""

import torch
import torch.nn.functional as F

from jepa.perf import torch_parts as parts


class MaskedPrediction:
    """Networks of a folder of jepa.perf.peer, for a subclass with `compute`, its loss.

    Attributes:
      rotary: whether positions are rotations of queries and keys.
      teacher: an average of the encoder.
      trained, averaged: lists of tensors; averages: of `averaged`, in its order.
    """

    rotary = True

    def __init__(self, folder):
        self.settings, weights, self.given = parts.read_given(folder)
        heads = {
            name: self.settings[f"{name}_heads"] for name in ("encoder", "predictor")
        }
        self.networks = {
            name: parts.make_network(weights, name, n, rotary=self.rotary)
            for name, n in heads.items()
        }
        self.teacher = parts.copy_of(self.networks["encoder"])
        self.trained = parts.tensors_of(self.networks)
        self.averaged = parts.tensors_of(self.networks["encoder"])
        self.averages = parts.tensors_of(self.teacher)
        self.loss = torch.compile(self.compute, dynamic=False)

    def compute(self):
        """The loss of the given batch."""
        raise NotImplementedError

    def rope(self, name, index):
        """Rotations of tokens at `index` from the tables called `name`."""
        return tuple(self.given[f"{name}_{k}"][index] for k in ("cos", "sin"))

    def predict(self, seen, hidden, rope):
        """The predictor's blocks, in which the tokens of each pattern see each other.

        seen, hidden: embedded tokens of each pattern, [B, n, W]. Returns both, [B, N, W],
        the patterns side by side.
        """
        pairs = list(zip(seen, hidden, strict=True))
        sizes = [x.shape[1] for pair in pairs for x in pair]
        x = parts.run_blocks(
            self.networks["predictor"]["blocks"], parts.in_turn(seen, hidden), rope,
            [a.shape[1] + b.shape[1] for a, b in pairs],
            heads=self.settings["predictor_heads"],
        )  # fmt: skip
        found = x.split(sizes, 1)
        return torch.cat(found[::2], 1), torch.cat(found[1::2], 1)


def normalize(x, eps: float = 1e-5):
    """Layer norm without scale or shift."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)
