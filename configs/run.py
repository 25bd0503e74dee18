"""Fields that configs of several methods share."""


def fields() -> dict:
    """Seed, start, machine, guard, rhythm and mesh; a preset changes what it needs."""
    return {
        "seed": 0,
        "init_from": "",  # weights to start from; docs/operations.md says which
        "init_parts": "",  # parts of them by name; empty: all that is there
        "machine": "",  # the machine that the layout is for
        "offload": "",  # fields of the state kept in host memory, like "opt,target"
        "dtype": "auto",
        "accumulate": 1,  # parts that a batch is taken in, one after another
        "max_bad_steps": 10,
        "guard": {
            "hang_s": 1800.0,  # without a step, after which the process ends; 0: never
            "rollback": 0,  # times to go back to a checkpoint and skip the data since
            "norm": 0.0,  # largest gradient norm that is applied; 0: any
        },
        "log_steps": 10,
        "save_steps": 1000,
        "keep_checkpoints": 3,
        "mesh": {"replica": 1, "data": 1, "fsdp": -1, "sequence": 1, "tensor": 1},
    }


def laid(accumulate, remat, data, fsdp, replica=1):
    """The config fields that lay a recipe of the JEPA family out for a machine."""
    return {
        "accumulate": accumulate,
        "encoder.remat": remat,
        "mesh.replica": replica,
        "mesh.data": data,
        "mesh.fsdp": fsdp,
    }


def trajectories() -> dict:
    """How latent world models read the trajectories of `data.source`, whatever it is."""
    return {
        "level": "pastel",  # this and the next two are of the source "world"
        "bodies": 2,
        "fps": 8.0,
        "workers": 8,
        "max_bad_share": 0.01,
        "frame_tolerance": 0.5,  # of LeRobot, in frame intervals
        "stall_s": 300.0,  # without any sample, until the run is saved and fails
    }
