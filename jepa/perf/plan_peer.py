"""Our plan of LeWorldModel and the same one in another program, in turns, with equal weights.

`launch.bench --what=plan --peer=torch` of configs/lewm.py. The search is CEM without bounds,
so that both do the same work. The other program is jepa/perf/plan_programs.py, whose Python
may be that of another environment.
"""

import json
import pathlib
import tempfile
import time

import jax
import numpy as np

from core.config import resolve_auto
from core.parallel.layouts import unbox
from core.perf.bench import PAUSE, start_peer
from core.planning.control import Solver, to_numpy
from core.planning.planners import make_planner
from core.planning.plans import make_space
from core.section import Section
from jepa.nets.batch_norm import Moments
from jepa.nets.model import MEAN, STD
from jepa.worlds.block_clips import make_read
from jepa.worlds.clip_statistics import ClipStatistics
from jepa.worlds.latent_plan import LatentGoal
from jepa.worlds.lewm_networks import make_networks, make_world

PROGRAMS = "jepa.perf.plan_programs"
METHOD, KINDS = "jepa.lewm", ("torch", "stable_worldmodel")
CHECKED = 4  # plans per problem whose costs are compared


def compare(config, kind: str, *, steps: int, python: str) -> dict:
    """Times of `steps` plans of plan.at_once problems, after one of each that compiles.

    Ratios are the peer's time over ours: above 1, ours is faster. Raises ValueError if a cost
    of the peer, where it has our weights, differs by more than a thousandth, and for another
    method than LeWorldModel.
    """
    if config.method != METHOD:
        raise ValueError(
            f"method {config.method} plans, but its peer is that of {METHOD}; use "
            "--config=configs/lewm.py:two_rooms"
        )
    if kind not in KINDS:
        raise ValueError(f"--peer={kind} makes no plans; use {' or '.join(KINDS)}")
    section = Section(resolve_auto(config.to_dict(), "cpu") | {"dtype": "float32"})
    clip, plan = section["clip"], section["plan"]
    read = make_read(section["data"], seed=0, skip=clip["skip"])
    records, _ = read("train", frames=clip["history"] + 1)
    width = ClipStatistics(records, {"action": clip["skip"]}).width("action")
    networks = make_networks(section, width=width)
    weights = jax.device_put(random_weights(networks))
    goal = LatentGoal(make_world(networks, window=plan["window"]), plan["last"])
    settings = dict(plan["planners"]["cem"])
    B, blocks = plan["at_once"], clip["skip"] * width
    given = problems(B, section["data"]["size"], plan["horizon"], blocks)
    no_bounds = np.full(blocks, np.inf)
    space = make_space(-no_bounds, no_bounds)
    planner = make_planner("cem", goal, space, horizon=plan["horizon"], **settings)
    solve = Solver(planner, weights, at_once=B)
    context = {
        "image": given["image"][:, None],
        "goal": given["goal"],
        "blocks": np.zeros((B, 0, blocks), np.float32),
    }
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), B)))
    guess = to_numpy(planner.begin(B))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        about = {"window": plan["window"], "skip": clip["skip"], **settings}
        about |= {name: section[name].to_dict() for name in ("encoder", "predictor")}
        about["encoder"] |= {"eps": getattr(networks.encoder, "eps", 0.0)}
        write_problems(pathlib.Path(folder), weights, given, about)
        with start_peer(PROGRAMS, kind, folder, python) as (versions, peer_plan):
            for _ in range(steps + 1):
                time.sleep(PAUSE)
                begin, used = time.perf_counter(), time.process_time()
                solve(context, keys, guess)
                ours = {"seconds": time.perf_counter() - begin}
                ours["cpu_seconds"] = time.process_time() - used
                time.sleep(PAUSE)
                rows.append((ours, peer_plan()))
    found = {
        "versions": f"jax {jax.__version__}",
        "peer_versions": versions,
        "plans": steps,
        "plan_problems": B,
        "plan_window": plan["window"],
    }
    if theirs := rows[0][1]["costs"]:
        found["largest_gap_of_costs"] = gap_of_costs(
            goal, weights, context, given, theirs
        )
    return found | summarize(rows)


def random_weights(networks) -> dict:
    """Weights of which none is zero, in numpy, with moments of batch norm."""
    rng = np.random.default_rng(0)
    shapes = unbox(jax.eval_shape(networks.init, jax.random.key(0)))

    def draw(path, x):
        numbers = 0.05 * rng.standard_normal(x.shape)
        return (numbers + (path[-1].key == "scale")).astype(np.float32)

    def moments(name):
        mean, var = rng.uniform(0.5, 1.5, (2, getattr(networks, name).hidden))
        return Moments(mean.astype(np.float32), var.astype(np.float32))

    return {
        "params": jax.tree_util.tree_map_with_path(draw, shapes),
        "norms": {name: moments(name) for name in ("projector", "pred_proj")},
    }


def problems(B: int, size: int, horizon: int, blocks: int) -> dict:
    """Random pictures and goals uint8 [B, size, size, 3], and plans [B, CHECKED, H, blocks]."""
    rng = np.random.default_rng(0)
    image, goal = rng.integers(0, 256, (2, B, size, size, 3), np.uint8)
    plans = rng.standard_normal((B, CHECKED, horizon, blocks)).astype(np.float32)
    return {"image": image, "goal": goal, "plans": plans}


def write_problems(folder: pathlib.Path, weights, given, about) -> None:
    """Write plan.npz, arrays by path of names, and plan.json."""
    norms = {k: {"mean": x.mean, "var": x.var} for k, x in weights["norms"].items()}
    found = jax.tree_util.tree_flatten_with_path(weights["params"] | {"norms": norms})[
        0
    ]
    arrays = {"/".join(key.key for key in path): x for path, x in found}
    np.savez(folder / "plan.npz", **arrays, **given)
    looks = {"mean": np.asarray(MEAN).tolist(), "std": np.asarray(STD).tolist()}
    (folder / "plan.json").write_text(json.dumps(about | looks))


def gap_of_costs(goal, weights, context, given, theirs) -> float:
    """Largest relative difference of our costs and `theirs`; raises ValueError above 1e-3."""
    start = jax.jit(goal.encode)(weights, context)
    key = jax.random.key(0)
    ours = np.asarray(jax.jit(goal.cost)(weights, start, given["plans"], key))
    gap = float(np.abs(np.asarray(theirs) / ours - 1).max())
    if not gap < 1e-3:
        raise ValueError(
            f"costs of the peer differ by {gap:.2g} of ours; expected under 1e-3"
        )
    return gap


def summarize(rows) -> dict:
    """Medians, minima and ratios of [(ours, peer's)], without the first, which compiles."""

    def times(name):
        return np.array([[program[name] for program in row] for row in rows[1:]]).T

    (here, there), (busy, peer_busy) = times("seconds"), times("cpu_seconds")
    return {
        "plan_seconds_median": float(np.median(here)),
        "peer_plan_seconds_median": float(np.median(there)),
        "ratio_of_medians": float(np.median(there) / np.median(here)),
        "ratio_of_minima": float(there.min() / here.min()),
        "plan_cpu_seconds_min": float(busy.min()),
        "peer_plan_cpu_seconds_min": float(peer_busy.min()),
        "peer_host_peak_bytes": rows[-1][1]["peak_kib"] * 1024,
    }
