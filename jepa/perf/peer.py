"""Our training step and the same step in PyTorch, to compare speed with.

`prepare` writes weights and inputs for the other program, jepa/perf/step_programs.py, whose
Python may be that of another environment. Its networks are those of
`jepa/perf/peer_KIND_METHOD.py`.
"""

import importlib.util
import pathlib
import sys

import jax
import numpy as np

from core.section import Section
from jepa.nets.model import MEAN, STD
from jepa.perf import peer_inputs

PROGRAMS = "jepa.perf.step_programs"
NEEDS = {
    "torch": ("torch",),
    "transformers": ("torch", "transformers"),
    "stable_worldmodel": ("stable_worldmodel",),
}
INSTALL = dict.fromkeys(NEEDS, "pip install -r requirements-peer.txt")
INSTALL["stable_worldmodel"] = (
    "name the Python of an environment that has stable-worldmodel 0.1.1 with --peer_python"
)
RATES = {"lr": 1e-3, "decay": 0.04, "momentum": 0.999}


def comparable(config, kind, python=sys.executable):
    """A copy of `config` with what the peer supports, in float32.

    Rates are fixed, without clipping, dropout or terms that the peer lacks. Raises
    ValueError if there is no such peer, and if `python` is this one and what the peer `kind`,
    one of NEEDS, needs is not installed.
    """
    if kind not in NEEDS:
        raise ValueError(f"--peer={kind} takes no steps; use {' or '.join(NEEDS)}")
    module = f"peer_{module_of(config, kind)}"
    if importlib.util.find_spec(f"jepa.perf.{module}") is None:
        raise ValueError(f"--peer={kind} has no step of method {config.method}")
    for name in NEEDS[kind] if python == sys.executable else ():
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--peer={kind} needs {name}: {INSTALL[kind]}")
    config = config.copy_and_resolve_references()
    config.dtype = "float32"
    with config.unlocked():
        for name in RATES.keys() & set(config.optimizer):
            config.optimizer[name] = {"kind": "constant", "value": RATES[name]}
    for name in {"clip_norm", "average"} & set(config.optimizer):
        config.optimizer[name] = 0.0
    peer_inputs.simplify(config)
    return config


def module_of(config, kind: str) -> str:
    """KIND of step_programs: the end of the name of a module."""
    return f"{kind}_{config.method.rpartition('.')[2]}"


def prepare(config, kind: str, state, batch, folder) -> dict:
    """Write weights and inputs for the peer into `folder`; returns the batch of both.

    Masks are replaced by random cells without padding, which the peers cannot mask.
    """
    from core.base.files import write_json

    section, folder = Section(config.to_dict()), pathlib.Path(folder)
    batch, given, settings = peer_inputs.INPUTS[config.method](section, state, batch)
    paths = jax.tree_util.tree_flatten_with_path(state.params)[0]
    arrays = {"/".join(("params", *(key.key for key in path))): x for path, x in paths}
    if kind == "transformers":
        write_hugging_face(config, state, folder)
    with (folder / "step.npz").open("wb") as file:
        np.savez(file, **jax.tree.map(np.asarray, arrays | given))
    looks = {"mean": np.asarray(MEAN).tolist(), "std": np.asarray(STD).tolist()}
    optimizer = {"betas": config.optimizer.betas, "eps": config.optimizer.eps}
    write_json(folder / "step.json", {**RATES, **optimizer, **looks, **settings})
    return batch


def write_hugging_face(config, state, folder) -> None:
    """Write V-JEPA's weights as transformers reads them."""
    from core.runs import run_folder
    from jepa.weights import hf_weights

    encoder, predictor = peer_inputs.masked_networks(Section(config.to_dict()))
    shared = ("width", "depth", "heads", "hidden")
    fields = {
        "encoder": {k: getattr(encoder, k) for k in (*shared, "patch")},
        "predictor": {
            k: getattr(predictor, k) for k in (*shared, "out", "mask_tokens")
        },
    }
    hf_weights.write_hf(
        folder, state.params, **fields, crop_size=config.data.size,
        frames=config.data.frames, mask_token=0, card="", origin=run_folder.provenance(None),
    )  # fmt: skip
