"""Fields of every config that the train loop reads, whatever the method."""


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
