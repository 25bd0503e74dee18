"""The V-JEPA step in PyTorch on transformers' VJEPA2 modules, to compare speed with.

`prepare` writes weights and batch of both programs. `python -m jepa.peer FOLDER THREADS`
is the peer: it takes one training step for every line on its standard input.
"""

import importlib.util
import json
import pathlib
import resource
import sys
import time

import numpy as np

from core.section import Section

RATES = {"lr": 1e-3, "decay": 0.04, "momentum": 0.999}
BATCH, STEP = "batch.npz", "step.json"


def comparable(config):
    """A copy of `config` with what transformers supports, float32 and "tiled" RoPE.

    Rates are fixed, without clipping, extra losses or jitter. Raises ValueError if torch or
    transformers is not installed.
    """
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--peer=torch needs {name}: pip install -r requirements-peer.txt"
            )
    config = config.copy_and_resolve_references()
    config.dtype, config.encoder.positions = "float32", "tiled"
    with config.unlocked():
        for name, value in RATES.items():
            config.optimizer[name] = {"kind": "constant", "value": value}
    config.optimizer.clip_norm = 0.0
    config.objective.sigreg = config.objective.vicreg = 0.0
    config.data.planar = False
    config.colour = {name: 0.0 for name in config.colour}
    return config


def prepare(config, state, batch, folder) -> dict:
    """Write weights and batch for the peer into `folder`; returns the batch of both.

    Masks are replaced by random cells without padding, which transformers' modules cannot
    mask.
    """
    from core.base.files import write_json
    from core.runs import run_folder
    from jepa import networks, weights

    encoder, predictor = networks.make_networks(
        dtype="float32",
        encoder=Section(config.encoder.to_dict(), "encoder"),
        predictor=Section(config.predictor.to_dict(), "predictor"),
    )
    fields = {
        "encoder": {
            k: getattr(encoder, k)
            for k in ("width", "depth", "heads", "hidden", "patch")
        },
        "predictor": {
            k: getattr(predictor, k)
            for k in ("width", "depth", "heads", "hidden", "out", "mask_tokens")
        },
    }
    batch, sizes = without_padding(config, encoder, batch)
    folder = pathlib.Path(folder)
    weights.write_hf(
        folder, state.params, **fields, crop_size=config.data.size,
        frames=config.data.frames, mask_token=0, card="", origin=run_folder.provenance(None),
    )  # fmt: skip
    np.savez(folder / BATCH, **batch)
    optimizer = {"betas": config.optimizer.betas, "eps": config.optimizer.eps}
    write_json(folder / STEP, {**RATES, **optimizer, **sizes})
    return batch


def without_padding(config, encoder, batch):
    """(the batch with other masks, {"context": tokens per pattern, "target": likewise})."""
    from jepa import masks, networks

    grid = networks.token_grid(
        encoder.patch, frames=config.data.frames, size=config.data.size
    )
    cells, rng = grid[1] * grid[2], np.random.default_rng(0)
    patterns = masks.make_patterns(
        Section(config.masks.patterns.to_dict(), "masks.patterns")
    )
    chosen, sizes = {"context": [], "target": []}, {"context": [], "target": []}
    for pattern in patterns:
        order = rng.permuted(
            np.tile(np.arange(cells), (len(batch["video"]), 1)), axis=1
        )
        if pattern.context + pattern.target > cells:
            raise ValueError(
                f"masks.patterns: a context of {pattern.context} and a target of "
                f"{pattern.target} cells do not fit into {cells} without padding"
            )
        ends = {
            "context": order[:, : pattern.context],
            "target": order[:, -pattern.target :],
        }
        for name, cell in ends.items():
            index = np.arange(grid[0])[:, None] * cells + np.sort(cell, 1)[:, None]
            chosen[name].append(index.reshape(len(order), -1).astype(np.int32))
            sizes[name].append(chosen[name][-1].shape[1])
    batch = {"video": batch["video"]}
    for name, found in chosen.items():
        batch[name] = np.concatenate(found, 1)
        batch[f"{name}_valid"] = np.ones(batch[name].shape, bool)
    return batch, sizes


class Peer:
    """Encoder, predictor, EMA target and optimizer in torch, and the batch they train on."""

    def __init__(self, folder, threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        folder = pathlib.Path(folder)
        self.torch = torch
        self.rates = json.loads((folder / STEP).read_text())
        model = transformers.VJEPA2Model.from_pretrained(folder).train()
        target = transformers.VJEPA2Model.from_pretrained(folder).encoder.train()
        self.encoder, self.predictor = model.encoder, model.predictor
        self.target = target.requires_grad_(False)
        groups = [[], []]
        for p in model.parameters():
            groups[p.ndim > 1].append(p)
        decays = ({"params": groups[0], "weight_decay": 0.0}, {"params": groups[1]})
        self.optimizer = torch.optim.AdamW(
            decays, lr=self.rates["lr"], betas=self.rates["betas"],
            eps=self.rates["eps"], weight_decay=self.rates["decay"], fused=True,
        )  # fmt: skip
        with np.load(folder / BATCH) as batch:
            self.video = torch.from_numpy(batch["video"])
            self.context, self.target_index = (
                torch.from_numpy(batch[name].astype(np.int64)).split(
                    self.rates[name], 1
                )
                for name in ("context", "target")
            )

    def pixels(self):
        """uint8 [B, T, H, W, 3] -> standardized float32 [B, T, 3, H, W]."""
        from jepa.model import MEAN, STD

        mean, std = (self.torch.from_numpy(x) for x in (MEAN, STD))
        return ((self.video / 255 - mean) / std).permute(0, 1, 4, 2, 3)

    def run_layers(self, layers, x, index):
        for layer in layers:
            x = layer(x, index)[0]
        return x

    def loss(self):
        torch = self.torch
        video = self.pixels()
        with torch.no_grad():
            truth = self.target(video).last_hidden_state
            truth = torch.nn.functional.layer_norm(truth, truth.shape[-1:], eps=1e-5)
        tokens, terms = self.encoder.embeddings(video), []
        for context, target in zip(self.context, self.target_index, strict=True):
            x = self.run_layers(self.encoder.layer, take(tokens, context), context)
            x = self.predict(self.encoder.layernorm(x), context, target)
            terms.append((x - take(truth, target)).abs().mean())
        return torch.stack(terms).mean()

    def predict(self, x, context, target):
        predictor = self.predictor
        x = predictor.embeddings.predictor_embeddings(x)
        hidden = predictor.embeddings.mask_tokens[0].expand(len(x), target.shape[1], -1)
        x = self.torch.cat([x, hidden], 1)
        x = self.run_layers(predictor.layer, x, self.torch.cat([context, target], 1))
        return predictor.proj(predictor.layernorm(x[:, context.shape[1] :]))

    def step(self) -> float:
        """One update on the batch; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        with self.torch.no_grad():
            pair = (list(m.parameters()) for m in (self.target, self.encoder))
            self.torch._foreach_lerp_(*pair, 1 - self.rates["momentum"])
        return loss.item()


def take(x, index):
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def serve(folder, threads):
    """Take one step per input line; print a line of JSON: seconds, loss, CPU, memory."""
    peer = Peer(folder, int(threads))
    for _ in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        loss = peer.step()
        answer = {"seconds": time.perf_counter() - start, "loss": loss}
        answer["cpu_seconds"] = time.process_time() - used
        answer["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
