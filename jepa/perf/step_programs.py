"""Training steps in another program: `python -m jepa.perf.step_programs KIND FOLDER THREADS`.

It takes one step for every line on its standard input. KIND is the end of the name of a module
`peer_KIND`, whose Program has `loss()`, the tensors it trains, and pairs of tensors and their
averages. Needs PyTorch and numpy, and nothing of JAX: it may run in an environment of its own.
"""

import importlib
import json
import pathlib
import sys

from jepa.perf.serving import serve


def make_step(program, rates):
    """() -> the loss before one update: AdamW, then the averages of `program.averaged`."""
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
        if program.averages:
            with torch.no_grad():
                pair = program.averages, program.averaged
                torch._foreach_lerp_(*pair, 1 - rates["momentum"])
        return loss.item()

    return step


def start(kind, folder, threads):
    """Take one step per input line; its loss is what jepa.perf.serving prints."""
    import torch

    torch.set_num_threads(int(threads))
    module = importlib.import_module(f"jepa.perf.peer_{kind}")
    rates = json.loads((pathlib.Path(folder) / "step.json").read_text())
    step = make_step(module.Program(folder), rates)
    serve(module.VERSIONS, lambda: {"loss": step()})


if __name__ == "__main__":
    start(*sys.argv[1:])
