"""How a state begins: resume this run, else start from other weights, else afresh."""

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from core.base.buckets import is_bucket
from core.base.names import choose
from core.base.places import local_folder
from core.base.text import short
from core.method import Method, Weights
from core.parallel.layouts import unbox
from core.runs import checkpoint
from core.runs.mirror import run_place
from core.runs.resume import resume
from core.runs.working import say


class Start(NamedTuple):
    """A state on the mesh, its updates done, and a line per group of arrays: their origin."""

    state: Any
    step: int
    report: list[str]


def begin(
    method: Method,
    plan,
    checkpoints,
    source,
    *,
    init_from: str,
    init_parts: str = "",
    restore_step: int | None = None,
) -> Start:
    """The state that a run begins with: the first that applies of three ways.

    1. Resume this run from its newest whole checkpoint, or that of `restore_step`, and its
       source from the cursor there.
    2. Start from `init_from`: a run's folder, its checkpoints/STEP, or what one of
       `method.readers` reads. Steps count anew.
    3. Start afresh.

    Args:
      plan: core.program.Program, whose layouts say where each array is placed.
      init_parts: names of `method.parts` to take, with commas between. Empty takes all
        that is there: the whole state of a checkpoint, moments included.

    Raises:
      ValueError: naming the array, part or field that cannot be taken.
    """
    if checkpoints.latest() is not None:
        state, cursor = resume(
            checkpoints, plan.shapes, plan.layouts, step=restore_step, say=say
        )
        source.set_state(cursor)
        step = int(state.step)
        return Start(state, step, [f"all arrays: resumed from step {step} of this run"])
    if restore_step is not None:
        raise ValueError(
            f"--restore_step is {restore_step}, but this run has no checkpoint"
        )
    names = part_names(method, init_from, init_parts)
    if not init_from:
        return Start(plan.create(), 0, ["all arrays: fresh"])
    folder = run_place(init_from, what="init_from")
    found = None if is_bucket(folder) else find_weights(method, folder, names)
    if found is not None:
        return start_from_weights(method, plan, *found, names)
    return start_from_checkpoint(method, plan, find_checkpoint(method, folder), names)


def part_names(method: Method, init_from: str, init_parts: str) -> tuple[str, ...]:
    """The names in `init_parts`; "params" stands for all parts within the params."""
    names = tuple(name.strip() for name in init_parts.split(",") if name.strip())
    if names and not init_from:
        raise ValueError(
            f"init_parts is {init_parts!r}, but init_from is empty; expected what to take "
            "them from"
        )
    if names and not method.parts:
        raise ValueError(
            f"init_parts is {init_parts!r}, but this method has no parts by name; leave "
            "it empty"
        )
    if names:
        choose(names, {"params": (), **method.parts}, "init_parts entry")
    if "params" not in names:
        return names
    trained = tuple(
        name
        for name, paths in method.parts.items()
        if any(path.startswith("params/") for path in paths)
    )
    return (*trained, *(name for name in names if name not in ("params", *trained)))


def find_weights(method: Method, path: pathlib.Path, names) -> tuple[dict, str] | None:
    """(what the first reader that knows the format found, its origin); None for no reader."""
    for kind, read in method.readers.items():
        found = read(path, names)
        if found is not None:
            return dict(found), f"{kind} {path}"
    return None


def read_frozen(method: Method, plan, place) -> Start:
    """What evaluations and exports read of a state, from weights or a checkpoint at `place`.

    Fields outside `method.frozen_fields` are None, and so are entries of `params` that the
    place does not hold. Raises ValueError for a place that holds no weights of this method.
    """
    path = local_folder(place, what="--weights")
    if not method.parts:
        raise ValueError(
            f"--weights is {place}, but this method has no parts by name; name its run by "
            "--workdir"
        )
    shapes = unbox(plan.shapes)
    fields = set(method.frozen_fields or shapes.__dataclass_fields__)
    names = tuple(
        name
        for name, paths in method.parts.items()
        if all(where.partition("/")[0] in fields for where in paths)
    )
    found = find_weights(method, path, names)
    if found is not None:
        put = place_once(found[0])
        arrays, origins = place_weights(method, plan, *found, names, put=put)
    else:
        folder = find_checkpoint(method, path)
        arrays, origins = read_parts(method, plan, folder, names)
    empty = dict.fromkeys(shapes.__dataclass_fields__)
    empty |= {"step": np.zeros((), np.int32), "params": dict.fromkeys(shapes.params)}
    state = with_arrays(shapes.replace(**empty), arrays)
    report = [f"{where}: {origin}" for where, origin in origins.items()]
    missing = [f"params/{name}" for name, x in state.params.items() if x is None]
    return Start(state, 0, [*report, *(f"{where}: not there" for where in missing)])


def find_checkpoint(method: Method, folder: pathlib.Path) -> pathlib.Path:
    """The folder of a checkpoint; raises ValueError that says what else is read."""
    try:
        return checkpoint.find_step_folder(folder)
    except checkpoint.CheckpointError as error:
        formats = ", ".join(method.readers)
        others = f", or one of these: {formats}" if formats else ""
        raise ValueError(f"init_from: {error}{others}; nothing is downloaded") from None


def start_from_checkpoint(method: Method, plan, folder: pathlib.Path, names) -> Start:
    """Start from a checkpoint: its whole state, or the parts `names` of it."""
    origin = f"from checkpoint {folder}"
    if not names:
        state = checkpoint.read(folder, plan.shapes, plan.layouts)
        zeros = {
            name: jax.device_put(np.zeros((), np.int32), getattr(plan.layouts, name))
            for name in ("step", "bad_steps")
        }
        origins = dict.fromkeys(group_names(plan.shapes), origin)
        origins |= dict.fromkeys(zeros, "0")
        return Start(state.replace(**zeros), 0, report_groups(plan.shapes, origins))
    return start_with(plan, *read_parts(method, plan, folder, names))


def read_parts(method: Method, plan, folder: pathlib.Path, names) -> tuple[dict, dict]:
    """(arrays on the mesh, their origins) by place, of the parts `names` of a checkpoint."""
    paths = {path: name for name in names for path in method.parts[name]}
    like = checkpoint.abstract(plan.shapes, plan.layouts)
    found_in = method.found_in
    places, arrays = checkpoint.read_parts(
        folder,
        {path: part_of(like, path) for path in paths},
        others={
            path: found_in[name] for path, name in paths.items() if name in found_in
        },
    )
    origin = f"checkpoint {folder}"
    origins = {
        path: f"from {origin}" if place == path else f"from {place} of {origin}"
        for path, place in places.items()
    }
    return arrays, origins


def start_from_weights(
    method: Method, plan, found: Mapping[str, Weights], origin: str, names
) -> Start:
    """Start with the parts that a reader found; the rest of the state is fresh."""
    for name in names:
        if name not in found:
            raise ValueError(
                f"init_from: {origin}: holds {', '.join(found)}, but init_parts names "
                f"{name!r}"
            )
    return start_with(plan, *place_weights(method, plan, found, origin, names))


def place_weights(
    method: Method, plan, found: Mapping[str, Weights], origin: str, names, *, put=None
) -> tuple[dict, dict]:
    """(arrays on the mesh, their origins) by place in the state, of the parts `names`.

    All parts that were found if `names` is empty. put: (host array, layout) -> array on
    the mesh, by default a copy of its own. Raises ValueError for wrong arrays.
    """
    shapes, arrays, origins = unbox(plan.shapes), {}, {}
    for name, paths in method.parts.items():
        if name not in found or (names and name not in names):
            continue
        for path in paths:
            check_arrays(path, found[name].arrays, part_of(shapes, path), origin)
            layouts = part_of(plan.layouts, path)
            arrays[path] = jax.tree.map(put or place, found[name].arrays, layouts)
            copied = "" if path == paths[0] else f", the same as {paths[0]}"
            entry = found[name].entry
            where = f"{entry} of {origin}" if entry else origin
            origins[path] = f"from {where}{copied}"
    return arrays, origins


def start_with(plan, arrays: Mapping, origins: Mapping) -> Start:
    """A fresh state with `arrays` in some places, {"field" or "field/entry": tree}."""
    state = with_arrays(plan.create(), arrays)
    origins = {"step": "0", "bad_steps": "0", **origins}
    return Start(state, 0, report_groups(plan.shapes, origins))


def with_arrays(state, arrays: Mapping):
    """A state with `arrays` in some places, {"field" or "field/entry": tree}."""
    for path, tree in arrays.items():
        field, _, entry = path.partition("/")
        whole = {**getattr(state, field), entry: tree} if entry else tree
        state = state.replace(**{field: whole})
    return state


def part_of(state, path: str):
    """The arrays at "field" or "field/entry" of a state."""
    field, _, entry = path.partition("/")
    return getattr(state, field)[entry] if entry else getattr(state, field)


def place(x: np.ndarray, layout):
    """A host array, the same on all processes, laid out on the devices."""
    return jax.make_array_from_callback(x.shape, layout, lambda index: x[index])


def place_once(found: Mapping[str, Weights]):
    """A `place` by which fields that start from one array share it; for states that no
    step donates.
    """
    arrays = {id(x): x for one in found.values() for x in jax.tree.leaves(one.arrays)}

    @functools.cache
    def once(key: int, layout):
        return place(arrays[key], layout)

    return lambda x, layout: once(id(x), layout)


def check_arrays(path: str, found, wanted, origin: str) -> None:
    """Raise ValueError for the first array that is missing, unexpected or not as wanted."""
    found, wanted = by_path(found), by_path(wanted)
    for name in sorted(found | wanted):
        if name not in found:
            raise ValueError(f"init_from: {origin}: {path}/{name} is missing")
        if name not in wanted:
            raise ValueError(
                f"init_from: {origin}: {path}/{name} is not an array of this config's network"
            )
        there, here = (f"{x.dtype} {x.shape}" for x in (found[name], wanted[name]))
        if there != here:
            raise ValueError(
                f"init_from: {origin}: {path}/{name} is {there}, expected {here}"
            )
        if not np.isfinite(found[name]).all():
            raise ValueError(
                f"init_from: {origin}: {path}/{name} has values that are not finite"
            )


def by_path(tree) -> dict:
    """{"a/b": array} of a tree of dicts and named tuples."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves
    }


def group_names(state) -> list[str]:
    """Groups of arrays for the report: each field of the state, `params` by its entries."""
    fields = (name for name in state.__dataclass_fields__ if name != "params")
    return [*(f"params/{name}" for name in state.params), *fields]


def report_groups(shapes, origins: Mapping[str, str]) -> list[str]:
    """One line per group: how many arrays and values, and their origin, fresh if unknown."""
    lines, shapes = [], unbox(shapes)
    for name in group_names(shapes):
        arrays = jax.tree.leaves(part_of(shapes, name))
        values = sum(math.prod(x.shape) for x in arrays)
        count = f"{len(arrays)} arrays, {short(values / 1e6)}M values, "
        count = "" if name in ("step", "bad_steps") else count
        field = name.partition("/")[0]
        origin = origins.get(name, origins.get(field, "fresh"))
        lines.append(f"{name}: {count}{origin}")
    return lines
