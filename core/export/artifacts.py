"""Frozen artefacts of a network: safetensors, StableHLO, a model card, provenance.

An artefact folder holds functions of (params, inputs) for any batch size, NAME.stablehlo
each, and `params.safetensors`, which they share; the lines in its README.md run them with
jax, numpy and safetensors alone.
"""

import json
import pathlib

import jax
import numpy as np
from jax import export
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from core.base.files import digest, write_json
from core.base.nested import nest

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = "params.safetensors"

USAGE = f"""\
from pathlib import Path
import jax.export, numpy as np, safetensors.numpy

params = safetensors.numpy.load_file("{WEIGHTS}")
"""

USAGE_PROGRAM = """\
program = jax.export.deserialize(bytearray(Path("{name}.stablehlo").read_bytes()))
inputs = {inputs}
outputs = program.call(params, inputs)
"""

USAGE_PARAMS = f"""\
import safetensors.numpy

params = safetensors.numpy.load_file("{WEIGHTS}")
for name, x in params.items():
    print(name, x.shape, x.dtype)
"""

CARD = """\
# {title}

{what}

## Weights

{network}

## Input and output

{inputs}

## Use

```python
{usage}
```

## Provenance

{origin}

The whole record is in `provenance.json`.

## Licence

None is stated. Whoever publishes these weights has to choose one.

## Configuration

```json
{config}
```
"""


def flatten(params: dict) -> dict:
    """Nested dicts of arrays -> {"a/b": array}."""
    flat = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        names = [getattr(entry, "key", None) for entry in path]
        if not all(isinstance(name, str) and "/" not in name for name in names):
            where = jax.tree_util.keystr(path)
            raise ValueError(f"params{where} is no array in dicts with plain names")
        flat["/".join(names)] = x
    return flat


def write_safetensors(folder, params: dict, metadata: dict, *, name: str = WEIGHTS):
    """Write nested params to one safetensors file, in a fixed order, under "a/b" names.

    Args:
      metadata: strings by name, kept in the file's header.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {k: np.ascontiguousarray(x) for k, x in sorted(flatten(params).items())}
    save_file(flat, folder / name, metadata=metadata)


def write_stablehlo(folder, programs: dict, params: dict, *, platforms=PLATFORMS):
    """Write functions of (params, inputs) as portable programs beside their params.

    Args:
      programs: name -> (fn, specs). fn is a pure function of nested params and of inputs
        shaped like `specs`; only arrays, dicts and tuples go in or out. specs has a
        jax.ShapeDtypeStruct per input, whose first axis is the batch and is left open,
        whatever its size here.
    """
    made = {
        name: make_program(fn, specs, params, platforms)
        for name, (fn, specs) in programs.items()
    }
    write_safetensors(folder, params, {"format": "flax"})
    for name, program in made.items():
        (pathlib.Path(folder) / f"{name}.stablehlo").write_bytes(program.serialize())


def make_program(fn, specs, params: dict, platforms):
    """fn(params, inputs) for flat params and any batch size, not yet written."""
    (batch,) = export.symbolic_shape("batch")

    def opened(spec):
        return jax.ShapeDtypeStruct((batch, *spec.shape[1:]), spec.dtype)

    def call(flat, inputs):
        return fn(nest(flat), inputs)

    flat = flatten(params)
    shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in flat.items()}
    program = export.export(jax.jit(call), platforms=platforms)(
        shapes, jax.tree.map(opened, specs)
    )
    if program.nr_devices != 1:
        raise ValueError(
            f"the program spans {program.nr_devices} devices; "
            "export it outside jax.set_mesh"
        )
    return program


def load(folder, name: str):
    """Read a program of an artefact folder back as a function of inputs."""
    folder = pathlib.Path(folder)
    program = export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
    params = load_file(folder / WEIGHTS)
    return lambda inputs: program.call(params, inputs)


def read_params(folder) -> dict | None:
    """Nested params of an artifact folder; None if the folder is no artifact."""
    path = pathlib.Path(folder) / WEIGHTS
    if not path.is_file() or not (path.parent / "provenance.json").is_file():
        return None
    try:
        return nest(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is no valid safetensors file: {error}") from None


def publish_stablehlo(
    folder, programs: dict, params: dict, *, origin: dict, atol: float = 1e-4, **words
) -> float:
    """Write a whole artefact of `programs`, then run each beside the live function.

    Args:
      programs: name -> (fn, specs) as in `write_stablehlo`.
      atol: largest difference let pass; the default suits outputs of unit variance.
      words: what `card` says besides usage and origin.

    Returns:
      the largest difference of an output.
    """
    write_stablehlo(folder, programs, params)
    text = card(usage=usage(programs), origin=origin, **words)
    finish(folder, card=text, origin=origin)
    gaps = []
    for name, (fn, specs) in programs.items():
        inputs = sample(specs, batch=2)
        live = jax.jit(fn)(params, inputs)
        gaps.append(check_same(load(folder, name)(inputs), live, atol=atol))
    return max(gaps)


def publish_safetensors(folder, params: dict, *, origin: dict, **words) -> float:
    """Write params alone as a whole artefact; what is read back must be equal: 0.0."""
    write_safetensors(folder, params, {"format": "flax"})
    text = card(usage=USAGE_PARAMS, origin=origin, **words)
    finish(folder, card=text, origin=origin)
    again = load_file(pathlib.Path(folder) / WEIGHTS)
    return check_same(again, flatten(params), atol=0)


def sample(specs, *, batch: int, seed: int = 0):
    """Inputs to check an artefact with: noise for floats and uint8, zeros otherwise."""
    rng = np.random.default_rng(seed)

    def one(spec):
        shape = (batch, *spec.shape[1:])
        if spec.dtype == np.uint8:
            return rng.integers(0, 256, shape, np.uint8)
        if np.issubdtype(spec.dtype, np.floating):
            return rng.standard_normal(shape).astype(spec.dtype)
        return np.zeros(shape, spec.dtype)

    return jax.tree.map(one, specs)


def check_same(a, b, *, atol: float) -> float:
    """The largest absolute difference of two trees of arrays.

    Raises ValueError naming the array when trees or shapes differ, when a difference
    exceeds `atol`, or when a value is not a number on one side only.
    """
    if jax.tree.structure(a) != jax.tree.structure(b):
        raise ValueError("the two sides do not hold the same names")
    worst = 0.0
    pairs = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    for (path, x), y in pairs:
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "output"
        x, y = np.asarray(x), np.asarray(y)
        if x.shape != y.shape:
            raise ValueError(f"{name} is {x.shape} on one side, {y.shape} on the other")
        differ = (x != y) & ~(np.isnan(x) & np.isnan(y))
        gap = x[differ].astype(np.float64) - y[differ].astype(np.float64)
        gap = np.abs(gap).max(initial=0.0)
        if not gap <= atol:
            raise ValueError(f"{name} differs by {gap:.3g}, more than {atol:.3g}")
        worst = max(worst, float(gap))
    return worst


def usage(programs: dict) -> str:
    """The lines that run an artefact's programs without this repository."""

    def zeros(spec):
        return f'np.zeros({(1, *spec.shape[1:])}, "{spec.dtype}")'

    lines = [USAGE]
    for name, (_, specs) in programs.items():
        inputs = ", ".join(f'"{k}": {zeros(spec)}' for k, spec in specs.items())
        lines.append(USAGE_PROGRAM.format(name=name, inputs=f"{{{inputs}}}"))
    return "".join(lines)


def card(
    *, title: str, what: str, network: str, inputs: str, usage: str, config: dict,
    origin: dict,
) -> str:  # fmt: skip
    """The text of a model card.

    Args:
      network: which weights these are, for example the EMA target encoder.
      inputs: shapes, dtypes and normalisation of inputs and outputs.
      usage: Python lines that run the artefact in its folder.
      config: the resolved config of the training run.
      origin: what `core.run.provenance` gives.
    """
    lines = [f"- {key}: {origin[key]}" for key in ("parent", "revision", "devices")]
    lines += [f"- {name} {version}" for name, version in origin["packages"].items()]
    return CARD.format(
        title=title,
        what=what,
        network=network,
        inputs=inputs,
        usage=usage.strip(),
        origin="\n".join(lines),
        config=json.dumps(config, indent=2),
    )


def finish(folder, *, card: str, origin: dict):
    """Write README.md and provenance.json, the latter with the digest of every file."""
    folder = pathlib.Path(folder)
    (folder / "README.md").write_text(card)
    files = sorted(p for p in folder.iterdir() if p.name != "provenance.json")
    write_json(
        folder / "provenance.json",
        {**origin, "files": {p.name: digest(p) for p in files if p.is_file()}},
    )
