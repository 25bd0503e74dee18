"""The V-JEPA step in PyTorch, to compare speed with.

`prepare` writes weights and batch of both programs. `python -m jepa.perf.peer KIND FOLDER
THREADS` is the peer: it takes one training step for every line on its standard input. Its
networks are those of `jepa/perf/peer_KIND.py`.
"""

import importlib
import importlib.util
import json
import pathlib
import resource
import sys
import time

import numpy as np

from core.section import Section

NEEDS = {"torch": ("torch",), "transformers": ("torch", "transformers")}
RATES = {"lr": 1e-3, "decay": 0.04, "momentum": 0.999}
BATCH, STEP = "batch.npz", "step.json"


def comparable(config, kind):
    """A copy of `config` with what the peer supports, float32 and "tiled" RoPE.

    Rates are fixed, without clipping, extra losses or jitter. Raises ValueError if what the
    peer `kind`, one of NEEDS, needs is not installed.
    """
    if kind not in NEEDS:
        raise ValueError(f"--peer={kind} takes no steps; use {' or '.join(NEEDS)}")
    for name in NEEDS[kind]:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--peer={kind} needs {name}: pip install -r requirements-peer.txt"
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

    Masks are replaced by random cells without padding, which the peers cannot mask.
    """
    from core.base.files import write_json
    from core.runs import run_folder
    from jepa.nets import networks
    from jepa.weights import hf_weights

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
    hf_weights.write_hf(
        folder, state.params, **fields, crop_size=config.data.size,
        frames=config.data.frames, mask_token=0, card="", origin=run_folder.provenance(None),
    )  # fmt: skip
    np.savez(folder / BATCH, **batch)
    optimizer = {"betas": config.optimizer.betas, "eps": config.optimizer.eps}
    write_json(folder / STEP, {**RATES, **optimizer, **sizes})
    return batch


def without_padding(config, encoder, batch):
    """(the batch with other masks, {"context": tokens per pattern, "target": likewise})."""
    from jepa.inputs import masks
    from jepa.nets import networks

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


def make_step(program, rates):
    """() -> the loss before one update: AdamW, then the average of the encoder."""
    import torch

    groups = [[], []]
    for p in program.trained:
        groups[p.ndim > 1].append(p)
    decays = ({"params": groups[0], "weight_decay": 0.0}, {"params": groups[1]})
    optimizer = torch.optim.AdamW(
        decays, lr=rates["lr"], betas=rates["betas"], eps=rates["eps"],
        weight_decay=rates["decay"], fused=True,
    )  # fmt: skip

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = program.loss()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            pair = program.target, program.encoder
            torch._foreach_lerp_(*pair, 1 - rates["momentum"])
        return loss.item()

    return step


def serve(kind, folder, threads):
    """Take one step per input line; print lines of JSON.

    First the versions, then for each step seconds, loss, CPU and memory.
    """
    import torch

    torch.set_num_threads(int(threads))
    module = importlib.import_module(f"jepa.perf.peer_{kind}")
    folder = pathlib.Path(folder)
    rates = json.loads((folder / STEP).read_text())
    with np.load(folder / BATCH) as found:
        batch = {k: found[k] for k in ("video", "context", "target")}
    for name in ("context", "target"):
        batch[name] = batch[name].astype(np.int64)
    step = make_step(module.Program(folder, batch, rates), rates)
    print(json.dumps({"versions": module.VERSIONS}), flush=True)
    for _ in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        loss = step()
        answer = {"seconds": time.perf_counter() - start, "loss": loss}
        answer["cpu_seconds"] = time.process_time() - used
        answer["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
