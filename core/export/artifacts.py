"""Artifact folders: safetensors, StableHLO programs, a model card and provenance.

NAME.stablehlo is a function of (params, inputs) for any batch size; all programs of a
folder share `params.safetensors`. The code in its README.md runs them with jax and numpy,
and flatbuffers, without which jax.export reads no program.
"""

import json
import pathlib

import jax
import numpy as np
from jax import export
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from core.base.digests import digest_files, find_damage
from core.base.files import read_json, write_json
from core.base.nested import nest
from core.base.text import short

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = "params.safetensors"
PROVENANCE = "provenance.json"
# Names of numpy's types in the safetensors format.
DTYPES = {"bool": "BOOL", "bfloat16": "BF16"} | {
    f"{name}{bits}": f"{letter}{bits}"
    for name, letter, sizes in (
        ("float", "F", (16, 32, 64)),
        ("int", "I", (8, 16, 32, 64)),
        ("uint", "U", (8, 16, 32, 64)),
    )
    for bits in sizes
}

USAGE = f"""\
# pip install jax numpy flatbuffers
import json, jax.export, numpy as np

raw = np.fromfile("{WEIGHTS}", "u1")
start = 8 + int(raw[:8].view("u8")[0])
names = json.loads(bytes(raw[8:start]))
read = lambda x: raw[start:][slice(*x["data_offsets"])].view("f4").reshape(x["shape"])
params = {{k: read(x) for k, x in names.items() if k != "__metadata__"}}
"""

USAGE_PROGRAM = """\
program = jax.export.deserialize(bytearray(open("{name}.stablehlo", "rb").read()))
outputs = program.call(params, {inputs})
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

## Evaluation

{findings}

## Provenance

{origin}

The whole record is in `provenance.json`.

## License

None is stated. Choose one before you publish these weights.

## Configuration

```json
{config}
```
"""


def flatten(params: dict) -> dict:
    """Nested dicts of arrays -> {"a/b": array}.

    Raises ValueError for other containers, and for keys with "/" or that are no strings.
    """
    flat = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        names = [getattr(entry, "key", None) for entry in path]
        if not all(isinstance(name, str) and "/" not in name for name in names):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"params{where}: expected arrays in dicts whose keys have no '/'"
            )
        flat["/".join(names)] = x
    return flat


def write_safetensors(folder, params: dict, metadata: dict, *, name: str = WEIGHTS):
    """Write nested params to FOLDER/NAME, sorted by their "a/b" names.

    Args:
      metadata: strings by name, kept in the file's header.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = sorted(
        flatten(params).items(), key=lambda item: (-item[1].dtype.itemsize, item)
    )
    header, start = {"__metadata__": metadata}, 0
    for key, x in flat:
        end = start + x.size * x.dtype.itemsize
        kind, shape = DTYPES[x.dtype.name], list(x.shape)
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / name, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, x in flat:  # one at a time: the library copies all of them first
            file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def write_stablehlo(
    folder,
    programs: dict,
    params: dict,
    *,
    platforms=PLATFORMS,
    batch: int | None = None,
):
    """Write functions of (params, inputs) as StableHLO programs, and their params.

    Args:
      programs: name -> (fn, specs). fn is a pure function of nested params and inputs; its
        inputs and outputs are arrays, dicts and tuples. specs has a jax.ShapeDtypeStruct
        per input; the first axis is the batch, of any size in the program.
      batch: the one size of the batch, for functions that need to know it.
    """
    made = {
        name: make_program(fn, specs, params, platforms, batch=batch)
        for name, (fn, specs) in programs.items()
    }
    check_float32(params)
    write_safetensors(folder, params, {"format": "flax"})
    for name, program in made.items():
        (pathlib.Path(folder) / f"{name}.stablehlo").write_bytes(program.serialize())


def check_float32(params: dict):
    """Raise ValueError for weights that the code of the card would misread."""
    for name, x in flatten(params).items():
        if x.dtype != np.float32:
            raise ValueError(
                f"params: {name} is {x.dtype}; programs take float32 weights"
            )


def make_program(fn, specs, params: dict, platforms, *, batch: int | None = None):
    """Export fn(params, inputs), for flat params and any batch size, or the one given.

    Raises ValueError if the program spans several devices.
    """
    size = export.symbolic_shape("batch")[0] if batch is None else batch

    def any_batch(spec):
        return jax.ShapeDtypeStruct((size, *spec.shape[1:]), spec.dtype)

    def call(flat, inputs):
        return fn(nest(flat), inputs)

    flat = flatten(params)
    shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in flat.items()}
    program = export.export(jax.jit(call), platforms=platforms)(
        shapes, jax.tree.map(any_batch, specs)
    )
    if program.nr_devices != 1:
        raise ValueError(
            f"the program spans {program.nr_devices} devices; "
            "export it outside jax.set_mesh"
        )
    return program


def load(folder, name: str):
    """A program of an artifact folder as a function of inputs.

    Raises ValueError if a file is not what was written.
    """
    folder = pathlib.Path(folder)
    check_files(folder, (f"{name}.stablehlo", WEIGHTS))
    program = export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
    params = load_file(folder / WEIGHTS)
    return lambda inputs: program.call(params, inputs)


def read_params(folder) -> dict | None:
    """Nested params of an artifact folder; None if the folder is no artifact.

    Raises ValueError if the file is not what was written.
    """
    path = pathlib.Path(folder) / WEIGHTS
    if not path.is_file() or not (path.parent / PROVENANCE).is_file():
        return None
    check_files(path.parent, (WEIGHTS,))
    try:
        return nest(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is no valid safetensors file: {error}") from None


def export_stablehlo(
    folder, programs: dict, params: dict, *, origin: dict, atol: float = 1e-4,
    batch: int | None = None, **words
) -> float:  # fmt: skip
    """Write a complete artifact of `programs` and compare each with its live function.

    Args:
      programs: name -> (fn, specs) as in `write_stablehlo`.
      atol: largest allowed difference; the default suits outputs of unit variance.
      batch: as in `write_stablehlo`.
      words: arguments of `card` besides usage and origin.

    Returns:
      the largest difference of an output.

    Raises:
      ValueError: a difference exceeds `atol`.
    """
    write_stablehlo(folder, programs, params, batch=batch)
    text = card(usage=usage(programs), origin=origin, **words)
    finish(folder, card=text, origin=origin)
    gaps = []
    for name, (fn, specs) in programs.items():
        inputs = sample(specs, batch=batch or 2)
        live = jax.jit(fn)(params, inputs)
        gaps.append(check_same(load(folder, name)(inputs), live, atol=atol))
    return max(gaps)


def export_safetensors(folder, params: dict, *, origin: dict, **words) -> float:
    """Write a complete artifact of params alone; returns 0.0.

    Raises ValueError if what is read back differs.
    """
    write_safetensors(folder, params, {"format": "flax"})
    text = card(usage=USAGE_PARAMS, origin=origin, **words)
    finish(folder, card=text, origin=origin)
    check_written(folder, params)
    return 0.0


def check_written(folder, params: dict):
    """Raise ValueError if params.safetensors does not hold nested `params`."""
    flat = flatten(params)
    with safe_open(pathlib.Path(folder) / WEIGHTS, framework="numpy") as file:
        if set(file.keys()) != set(flat):
            raise ValueError(f"{WEIGHTS} does not hold the names of the params")
        for name, x in flat.items():  # one at a time, to save memory
            check_same({name: file.get_tensor(name)}, {name: x}, atol=0)


def sample(specs, *, batch: int, seed: int = 0):
    """Random inputs shaped like `specs`, [batch, ...]; zeros for integers except uint8."""
    rng = np.random.default_rng(seed)

    def one(spec):
        shape = (batch, *spec.shape[1:])
        if spec.dtype == np.uint8:
            return rng.integers(0, 256, shape, np.uint8)
        if spec.dtype == np.bool_:
            return rng.random(shape) < 0.5
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
    """Python code that runs the programs of an artifact without this repository."""

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
      inputs: shapes, dtypes and normalization of inputs and outputs.
      usage: Python code that runs the artifact in its folder.
      config: the resolved config of the training run.
      origin: of `core.runs.run_folder.provenance`.
    """
    return CARD.format(
        title=title,
        what=what,
        network=network,
        inputs=inputs,
        usage=usage.strip(),
        findings=findings_table(origin),
        origin="\n".join(f"- {line}" for line in origin_lines(origin)),
        config=json.dumps(config, indent=2),
    )


def findings_table(origin: dict) -> str:
    """A Markdown table of the findings of the checkpoint, if there are any."""
    if not origin.get("findings"):
        return "This checkpoint was not evaluated."
    lines = ["| finding | value | 95% interval |", "|---|---|---|"]
    for name, value in origin["findings"].items():
        ends = origin["intervals"].get(name)
        span = f"{short(ends[0])} to {short(ends[1])}" if ends else ""
        lines.append(f"| {name} | {short(float(value))} | {span} |")
    return "\n".join(lines)


def origin_lines(origin: dict) -> list[str]:
    """Where weights come from: checkpoint, training, data, code."""
    run = origin.get("run", {})
    lines = [f"checkpoint: {origin['parent']}"]
    if run:
        lines.append(f"training began from: {run.get('parent') or 'fresh weights'}")
        lines.append(f"code of the training: {run.get('revision', 'unknown')}")
    for one in run.get("data", ()):
        about = f"{one.get('files')} files, digest {one.get('digest')}"
        lines.append(
            f"data: {one['place'] + ', ' + about if one['place'] else 'computed'}"
        )
    lines += [
        f"code of the export: {origin['revision']}",
        f"made on {origin['devices']}",
    ]
    return [*lines, *(f"{name} {x}" for name, x in origin["packages"].items())]


def finish(folder, *, card: str, origin: dict):
    """Write README.md, and provenance.json with the SHA-256 of every file."""
    folder = pathlib.Path(folder)
    (folder / "README.md").write_text(card)
    names = {p.name for p in folder.iterdir() if p.is_file()} - {PROVENANCE}
    write_json(folder / PROVENANCE, {**origin, "files": digest_files(folder, names)})


def recorded_files(folder) -> dict[str, str]:
    """File name -> SHA-256 of an artifact, as `finish` recorded them.

    Raises ValueError if provenance.json has none.
    """
    path = pathlib.Path(folder) / PROVENANCE
    known = read_json(path)
    files = known.get("files") if isinstance(known, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{path} has no digests under 'files', as an export has")
    return files


def check_files(folder, names):
    """Raise ValueError for the first file of an artifact that is not what was written."""
    files = recorded_files(folder)
    for name in names:
        if name not in files:
            raise ValueError(f"{folder}/{PROVENANCE} has no digest of {name}")
    if found := find_damage(folder, {name: files[name] for name in names}):
        raise ValueError(
            f"export {folder} is damaged ({found}); use another copy or export it again"
        )
