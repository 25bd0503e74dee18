"""DreamerV3 (arXiv 2301.04104): world models from trajectories, and agents.

tiny: a world model of the embedded world, in which an agent pushes bodies; two CPU cores:
python -m launch.train --config=configs/dreamer.py:tiny --workdir=runs/dreamer

size1m to size400m: the published sizes, trained with actor and critic on the trajectories
of --config.data.source, recordings or the embedded world.

dmc_proprio, dmc_vision, atari100k, crafter: agents by the published protocols. reach,
reacher: small agents for two CPU cores.

PRESET@MACHINE, such as size200m@v5e:8x8, is laid out for a machine of MACHINES, with a
batch that uses it well; the published batch is 16. docs/scaling.md has the forecasts.
"""

from ml_collections import ConfigDict

from configs import run

# Numbers of FIELDS; the published counts of parameters are in tests/dreamer/test_nets.py.
SIZES = {
    "1m": (512, 64, 4, 4, 64),
    "12m": (2048, 256, 16, 16, 256),
    "25m": (3072, 384, 24, 24, 384),
    "50m": (4096, 512, 32, 32, 512),
    "100m": (6144, 768, 48, 48, 768),
    "200m": (8192, 1024, 64, 64, 1024),
    "400m": (12288, 1536, 96, 96, 1536),
}
# The published protocols: task, size, environments, action repeat, steps trained on per
# step taken, total steps taken.
SUITES = {
    "dmc_proprio": ("dmc:walker_walk", "1m", 16, 1, 1024, 1_100_000),
    "dmc_vision": ("dmc_image:walker_walk", "200m", 16, 1, 256, 1_100_000),
    "atari100k": ("atari:pong", "200m", 1, 4, 256, 110_000),
    "crafter": ("crafter:reward", "200m", 1, 1, 512, 1_100_000),
}
# What to say of a flag for a section that a preset does not have.
ACTS = (
    "this preset learns from recordings; reach acts in an environment, and so do reacher, "
    + ", ".join(SUITES)
)
HINTS = dict.fromkeys(("env", "replay", "episodes", "planner"), ACTS) | {
    "data": "this preset acts in an environment; tiny and size1m to size400m learn from "
    "recordings"
}
FIELDS = ("deter", "hidden", "classes", "depth", "units")  # of convolutions, of MLPs


def layout(batch, data, fsdp):
    """Fields that lay a preset out for a machine."""
    return {"batch": batch, "mesh.data": data, "mesh.fsdp": fsdp}


# Machines (core/hardware.py) that presets are laid out for.
MACHINES = {
    "size200m": {
        "v5e:8x8": layout(128, data=4, fsdp=16),
        "h200:1x1": layout(64, data=1, fsdp=1),
    },
    "size400m": {
        "v5e:8x8": layout(64, data=4, fsdp=16),
        "h200:1x1": layout(32, data=1, fsdp=1),
    },
}


def get_config(size="tiny"):
    """The config of a preset by name; ValueError for an unknown one."""
    makers = {"tiny": tiny, "reach": reach, "reacher": reacher}
    makers |= {name: lambda row=row: agent(*row) for name, row in SUITES.items()}
    makers |= {f"size{name}": lambda name=name: offline(name) for name in SIZES}
    year = "_2024"
    plain = size.removesuffix(year)
    if plain not in makers:
        raise ValueError(
            f"configs/dreamer.py has no preset {size!r}; use one of {', '.join(makers)}, "
            f"or one of them with {year} for the networks of April 2024"
        )
    config = makers[plain]()
    if plain != size:
        config["model"]["form"] = "stride"
        config["imagination"]["true_start"] = True
    return ConfigDict(config)


def network(name):
    """The model section of a published size, in the form of the current public code."""
    row = dict(zip(FIELDS, SIZES[name], strict=True))
    return row | {"stoch": 32, "blocks": 8, "form": "pool"}


def base():
    """Fields of all presets: the published optimizer, heads and losses."""
    return (
        run.fields()
        | {
            "batch": 16,
            "length": 64,  # steps of a sequence
            # "none": a world model only; or a planner acts: "cem", "icem", "mppi", "gradient";
            # "categorical" for discrete actions
            "behavior": "actor",
            "imagination": {
                "horizon": 15,
                "last": 0,  # imagination starts at so many last steps of a sequence; 0: at all
                "unimix": 0.01,  # of discrete actors; 0 in the public code of 2026
                "true_start": False,
            },
            "optimizer": {
                "lr": {
                    "kind": "warmup_constant",
                    "start": 0.0,
                    "peak": 4e-5,
                    "warmup_steps": 1000,
                },
                "agc": 0.3,
                "betas": (0.9, 0.999),
                "eps": 1e-20,
            },
        }
    )


def offline(name):
    """A published size on trajectories."""
    return base() | {
        "method": "dreamer.offline",
        "steps": 100_000,
        "model": network(name),
        "chunks": 1,  # consecutive sequences per window; states are carried over
        "data": {
            "source": "world",  # or another name of core/data/source_names.py
            "size": 64,
            "level": "pastel",
            "bodies": 2,
            "fps": 8.0,
            "workers": 8,
            "max_bad_share": 0.01,
            # How far the frame of a recorded step may be from its time stamp, in frame
            # intervals of the data set; further away, the step is a bad sample.
            "frame_tolerance": 0.5,
            "stall_s": 300.0,  # without any sample, until the run is saved and fails
        },
        # Predictions of `clips`, and the readout of body positions, fitted to others.
        "dream": {
            "steps": 24,
            "context": 5,
            "clips": 256,
            "read_clips": 1024,
            "read_steps": 3000,
        },
        # Steps between evaluations; 0: only after the last step, -1: never.
        "eval_steps": {"dream": 5000},
    }


def small():
    """A small model, for CPUs."""
    return {
        "deter": 256,
        "hidden": 64,
        "classes": 16,
        "depth": 4,
        "units": 64,
        "stoch": 16,
        "blocks": 8,
        "form": "pool",
    }


def tiny():
    """A small world model without an actor; an hour on one CPU core."""
    config = offline("1m")
    config |= {
        "steps": 10_000,
        "batch": 8,
        "length": 24,
        "behavior": "none",
        "save_steps": 500,
        "model": small(),
        "eval_steps": {"dream": 1000},
    }
    config["optimizer"]["lr"] |= {"peak": 4e-4, "warmup_steps": 200}
    config["data"]["workers"] = 2
    return config


def agent(task, name, count, repeat, ratio, taken):
    """A published size that acts in `task`, by the published protocol."""
    return base() | {
        "method": "dreamer.agent",
        "steps": taken * ratio // 1024,  # updates, of 16 x 64 steps each
        "model": network(name),
        "env": {
            "task": task,
            "size": 64,  # pixels of images
            "repeat": repeat,  # simulator steps per action
            "action_bounds": "",  # LOW,HIGH for actions without bounds; empty: refused
            "leave_out": "",  # observations that are not read, with commas between
            "count": count,
            "processes": True,
            "timeout_s": 60.0,
        },
        "replay": {
            "ratio": ratio,
            "capacity": 5_000_000,  # steps in memory and on disk
            "first_steps": 1024,  # windows in the replay before the first update
            "source": "",  # recordings that fill it first (core/data/source_names.py)
            "action_bounds": "",  # LOW,HIGH of recorded ones that have none; empty: -1,1
        },
        "planner": {  # where a planner acts: those of PlaNet (arXiv 1811.04551)
            "horizon": 12,
            "candidates": 1000,  # these three: of all planners but "gradient"
            "best": 100,
            "rounds": 10,
            "explore": 0.3,
            "cem": {"momentum": 0.0, "mean_first": False},
            "icem": {"momentum": 0.1, "beta": 2.0, "keep": 5},
            "mppi": {"temperature": 0.5, "std_min": 0.05, "std_max": 2.0},
            "gradient": {"candidates": 8, "rounds": 30, "rate": 0.1, "noise": 0.0},
            "categorical": {"momentum": 0.0, "smoothing": 1.0},
        },
        "episodes": {"count": 8, "most_steps": 30_000},
        "eval_steps": {"episodes": 10_000},
    }


def reach(task="world:reach"):
    """The agent pushes a body to a target of the embedded world; two CPU cores."""
    config = agent(task, "1m", count=4, repeat=1, ratio=64, taken=160_000)
    config |= {
        "length": 16,
        "save_steps": 500,
        "model": small(),
        "eval_steps": {"episodes": 500},
    }
    config["optimizer"]["lr"] |= {"peak": 4e-4, "warmup_steps": 200}
    config["env"]["processes"] = False  # a step takes 50 us, less than a message
    config["replay"] |= {"capacity": 200_000, "first_steps": 512}
    config["episodes"] = {"count": 16, "most_steps": 1001}
    return config


def reacher():
    """DeepMind Control's reacher_easy from proprioception (requirements-envs.txt)."""
    config = reach("dmc:reacher_easy")
    # Long sequences, little imagination: the model is harder to learn than the policy.
    config |= {"steps": 25_000, "length": 64}
    config["imagination"]["last"] = 8
    config["replay"] |= {"ratio": 256, "first_steps": 1024}
    config["eval_steps"]["episodes"] = 2500
    config["episodes"]["count"] = 5
    return config
