"""Scores an exported planner in a world of the package stable-worldmodel, by its own rules.

Run in an environment of that package, which pins other versions, as a file:

    pip install "stable-worldmodel[env,format]>=0.1.1,<0.2" jax flatbuffers
    python core/planning/outside_score.py --planner=EXPORT/planner --data=tworoom.h5

It needs nothing else of this repository. Starts and goals are states of recorded episodes, as
in the package's own evaluation; success is the environment's `terminated`.
"""

import argparse
import json
import math
import pathlib
from typing import Any

import jax
import jax.export
import numpy as np

# The environment, and how it is put into recorded states.
WORLDS: dict[str, dict[str, str]] = {
    "swm/TwoRoom-v1": {"_set_state": "state", "_set_goal_state": "goal_state"},
    "swm/PushT-v1": {"_set_state": "state", "_set_goal_state": "goal_state"},
}


class ExportedPlanner:
    """A policy of the package: every environment plans for itself with one exported program.

    folder: of an export of the format `planner`. view: name of its picture.
    """

    def __init__(self, folder, *, view: str = ""):
        folder = pathlib.Path(folder)
        self.about = json.loads((folder / "planner.json").read_text())
        program = (folder / "planner.stablehlo").read_bytes()
        self.program = jax.export.deserialize(bytearray(program))
        self.call = jax.jit(self.program.call)
        self.params = read_weights(folder / "params.safetensors")
        goals = [k for k in self.about["inputs"] if k.startswith("goal/")]
        self.view = view or goals[0].removeprefix("goal/")
        self.chunks: dict[int, list] = {}
        self.states: dict[int, dict] = {}
        self.env: Any = None
        self.type, self.seed = "exported", None

    def set_env(self, env) -> None:
        """Begin anew in an environment pool."""
        self.env, self.chunks, self.states = env, {}, {}

    def get_action(self, infos, **_) -> np.ndarray:
        """Actions [n, A] of all environments, from "pixels" and "goal" of their infos."""
        return np.stack([self.one(i, infos) for i in range(len(infos["pixels"]))])

    def one(self, i: int, infos) -> np.ndarray:
        """The next action of environment i; plans when the last plan is used up."""
        if not self.chunks.get(i):
            shape = tuple(self.about["inputs"][self.view]["shape"])
            names = self.about["state"]
            zeros = {k: np.zeros(**self.about["inputs"][k]) for k in names}
            inputs = self.states.get(i, zeros) | {
                self.view: picture(infos["pixels"][i], shape),
                f"goal/{self.view}": picture(infos["goal"][i], shape),
            }
            found = {
                k: np.asarray(x) for k, x in self.call(self.params, inputs).items()
            }
            self.states[i] = {k: found[k] for k in names}
            self.chunks[i] = list(found["action"][0])
        return self.chunks[i].pop(0)


def picture(x, shape: tuple[int, ...]) -> np.ndarray:
    """The last frame of an info as uint8 [1, h, w, 3]; raises ValueError for other sizes."""
    x = np.asarray(x)
    x = x[-1] if x.ndim == 4 else x
    x = np.moveaxis(x, 0, -1) if x.shape[0] == 3 != x.shape[-1] else x
    if (1, *x.shape) != shape:
        raise ValueError(
            f"pictures are {x.shape}, the planner's are {shape[1:]}; use --size={shape[1]}"
        )
    return x.astype(np.uint8)[None]


def read_weights(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Float32 arrays of a safetensors file by name."""
    raw = np.fromfile(path, "u1")
    start = 8 + int(raw[:8].view("u8")[0])
    names = json.loads(bytes(raw[8:start]))
    names.pop("__metadata__", None)

    def read(x):
        begin, end = (start + at for at in x["data_offsets"])
        return raw[begin:end].view("f4").reshape(x["shape"])

    return {name: read(x) for name, x in names.items()}


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share, of n trials (Wilson 1927)."""
    p, w = hits / n, z * z / n
    half = z * math.sqrt(p * (1 - p) / n + w / (4 * n))
    return (p + w / 2 - half) / (1 + w), (p + w / 2 + half) / (1 + w)


def draw_problems(lengths, *, count: int, offset: int, seed: int):
    """(episodes, starts) of recorded goals `offset` steps ahead, uniform over all starts."""
    starts = [(i, t) for i, n in enumerate(lengths) for t in range(int(n) - offset)]
    if len(starts) < count:
        raise ValueError(
            f"the recordings have {len(starts)} goals {offset} steps ahead, expected {count}"
        )
    rows = np.random.default_rng(seed).choice(len(starts), count, replace=False)
    return zip(*(starts[i] for i in sorted(rows)), strict=True)


def score(args) -> list[tuple[str, int, int]]:
    """(row, successes, problems) of the planner and of random actions."""
    import stable_worldmodel as swm  # pyright: ignore[reportMissingImports]
    from stable_worldmodel import data, policy  # pyright: ignore[reportMissingImports]

    recorded = data.HDF5Dataset(path=args.data)
    hits = {"planner": 0, "random": 0}
    for seed in range(args.seeds):
        episodes, starts = draw_problems(
            recorded.lengths, count=args.problems, offset=args.offset, seed=seed
        )
        for row in hits:
            world = swm.World(
                args.env,
                num_envs=args.problems,
                image_shape=(args.size, args.size),
                max_episode_steps=2 * args.budget,
            )
            acting = (
                ExportedPlanner(args.planner)
                if row == "planner"
                else policy.RandomPolicy(seed=seed)
            )
            world.set_policy(acting)
            found = world.evaluate(
                dataset=recorded,
                episodes_idx=list(episodes),
                start_steps=list(starts),
                goal_offset=args.offset,
                eval_budget=args.budget,
                callables=[
                    {"method": method, "args": {name: {"value": name}}}
                    for method, name in WORLDS[args.env].items()
                ],
            )
            hits[row] += int(np.sum(found["episode_successes"]))
            world.close()
            done = (seed + 1) * args.problems
            print(f"seed {seed}: {row} {hits[row]} of {done}", flush=True)
    return [(row, n, args.seeds * args.problems) for row, n in hits.items()]


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description="Scores an exported planner.")
    flags.add_argument("--planner", required=True, help="folder of an exported planner")
    flags.add_argument("--data", required=True, help="HDF5 file of held-out episodes")
    flags.add_argument("--env", default="swm/TwoRoom-v1", choices=sorted(WORLDS))
    flags.add_argument("--size", type=int, default=64, help="pixels per side")
    flags.add_argument(
        "--offset", type=int, default=25, help="steps from start to goal"
    )
    flags.add_argument("--budget", type=int, default=50, help="steps to reach it in")
    flags.add_argument("--problems", type=int, default=50, help="problems per seed")
    flags.add_argument("--seeds", type=int, default=3, help="draws of problems")
    args = flags.parse_args()
    print("| row | success | 95% interval |\n|---|---|---|")
    for row, hits, n in score(args):
        low, high = wilson(hits, n)
        print(f"| {row} | {100 * hits / n:.1f} | {100 * low:.1f} to {100 * high:.1f} |")


if __name__ == "__main__":
    main()
