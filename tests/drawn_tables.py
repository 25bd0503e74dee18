"""Random data sets of RLDS and Minari whose steps have a number in all of their arrays.

`draw_rlds` and `draw_minari` write one and return its path and a plain concatenation of its
episodes, by the names of core/data/episodes/steps.py.
"""

import warnings

import cv2
import numpy as np
import tensorflow_datasets
from tfds_files import write_version

F = tensorflow_datasets.features
SIDE = 16  # of pictures


def pictures(numbers, channels, dtype=np.uint8) -> np.ndarray:
    """Images [T, SIDE, SIDE, C] with the number of the step, below 65536, in each."""
    x = np.zeros((len(numbers), SIDE, SIDE, channels), dtype)
    if dtype == np.uint8:
        x[:, : SIDE // 2] = (numbers % 256)[:, None, None, None]
        x[:, SIDE // 2 :] = (numbers // 256)[:, None, None, None]
    else:
        x[:] = numbers[:, None, None, None]
    x[:, 0, 0] = np.arange(channels)  # channels differ
    return x


def numbered(numbers, shape, dtype) -> np.ndarray:
    """[T, *shape] whose items are the number of the step and their place."""
    at = np.arange(int(np.prod(shape))).reshape(shape)
    return (numbers.reshape(-1, *[1] * len(shape)) + 0.25 * at).astype(dtype)


def draw_episodes(rng, cut=0.0) -> list[dict]:
    """Episodes of random lengths, flags and rewards, by the names of episodes/steps.py.

    "earned" is the reward of the action at each step. cut: share of the episodes that have
    a first step inside, with no last step before it.
    """
    begin, episodes = int(rng.integers(1000)), []
    for _ in range(int(rng.integers(1, 6))):
        n = int(rng.integers(2, 10))
        numbers = begin + np.arange(n)
        begin += n + int(rng.integers(50))
        at = np.arange(n)
        earned = np.where(at == n - 1, 0, 0.5 * numbers).astype(np.float32)
        is_first = at == 0
        is_first[rng.integers(1, n)] |= rng.random() < cut
        is_last = np.append(is_first[1:], True)
        reward = np.zeros(n, np.float32)
        for t in range(n):  # with the step that an action leads to, or stays at the end
            reward[t if is_last[t] else t + 1] += earned[t]
        episodes.append(
            {
                "number": numbers,
                "is_first": is_first,
                "is_last": is_last,
                "is_terminal": (at == n - 1) & (rng.random() < 0.5),
                "reward": reward,
                "earned": earned,
                "action": numbered(numbers, (2,), np.float32),
            }
        )
    return episodes


def as_stream(episodes, arrays) -> dict:
    """All steps in order. arrays: name -> function of the numbers."""
    kept = [name for name in episodes[0] if name not in ("number", "earned")]
    parts = [
        {name: x[name] for name in kept}
        | {name: f(x["number"]) for name, f in arrays.items()}
        for x in episodes
    ]
    return {name: np.concatenate([x[name] for x in parts]) for name in parts[0]}


def some(rng, arrays):
    """A random half of named functions."""
    return {name: f for name, f in arrays.items() if rng.random() < 0.5}


def draw_rlds(rng, folder, form):
    """(path, stream) of a random data set of RLDS."""
    flags = bool(rng.random() < 0.5)
    episodes = draw_episodes(rng, cut=0.4 * flags)
    shape = [(3,), (2, 2), (1,)][rng.integers(3)]
    dtype = [np.float32, np.int32, np.uint8, np.float64][rng.integers(4)]
    channels = int(rng.choice([1, 3]))
    more = {
        "image": lambda n: pictures(n, channels),
        "arm_view": lambda n: pictures(n, 3),
        "log/depth": lambda n: pictures(n, 1, np.uint16),
        "block": lambda n: pictures(n, 3),
        "arm_joint": lambda n: numbered(n % 200, shape, dtype).astype(np.float32),
        "observation_reward": lambda n: numbered(n, shape, np.float32),
        "observation_time": lambda n: numbered(n, (), np.float32)[:, None],
        "time": lambda n: n / 8,
        "language": lambda n: np.array([f"do {i}" for i in n]),
    }
    more = some(rng, more)
    kinds = {
        "image": F.Image(shape=(SIDE, SIDE, channels)),
        "arm_view": F.Image(shape=(None, None, 3)),
        "log/depth": F.Image(shape=(SIDE, SIDE, 1), dtype=np.uint16),
        "block": F.Tensor(shape=(3, SIDE, SIDE), dtype=np.uint8),
        "arm_joint": F.Tensor(shape=shape, dtype=dtype),
        "observation_reward": F.Tensor(shape=shape, dtype=np.float32),
        "observation_time": F.Scalar(np.float32),
        "time": F.Scalar(np.float64),
        "language": F.Text(),
    }
    theirs = {
        "log/depth": "depth",
        "observation_reward": "reward",
        "observation_time": "time",
        "time": "timestamp",
        "language": "instruction",
        "arm_view": ("arm", "view"),
        "arm_joint": ("arm", "joint"),
    }

    def put(nested, ours, value):
        *outer, name = np.atleast_1d(theirs.get(ours, ours)).tolist()
        for key in outer:
            nested = nested.setdefault(key, {})
        nested[name] = value

    def stored(name, n):
        x = more[name](np.array([n]))[0]
        if name == "block":
            return x.transpose(2, 0, 1)
        if isinstance(kinds[name], F.Image):
            order = [2, 1, 0] if x.shape[-1] == 3 else [0]
            return cv2.imencode(".png", x[..., order])[1].tobytes()
        return (
            str(x)
            if name == "language"
            else x.reshape(kinds[name].shape).astype(kinds[name].np_dtype)
        )

    seen = {"state": F.Tensor(shape=(2,), dtype=np.float32)}
    for name in more:
        put(seen, name, kinds[name])
    choice = rng.random() < 0.5
    turn = F.ClassLabel(num_classes=5)
    real = F.Tensor(shape=(2,), dtype=np.float32)
    step = {
        "observation": seen,
        "action": {"go": real} | ({"turn": turn} if choice else {}),
    }
    step |= {"reward": np.float32, "is_terminal": np.bool_}
    step |= {"is_first": np.bool_, "is_last": np.bool_} if flags else {}
    examples = []
    for x in episodes:
        rows = []
        for t, n in enumerate(x["number"]):
            look = {"state": numbered(np.array([n]), (2,), np.float32)[0]}
            for name in more:
                put(look, name, stored(name, n))
            act = {"go": x["action"][t]} | ({"turn": int(n) % 5} if choice else {})
            row = {"observation": look, "action": act, "reward": x["earned"][t]}
            names = ["is_terminal"] + (["is_first", "is_last"] if flags else [])
            marks = {name: x[name][t] for name in names}
            if "is_last" in marks:  # a cut episode does not say that it ends
                marks["is_last"] = t == len(x["number"]) - 1
            rows.append(row | marks)
        examples.append(rows)
        if choice:
            x["action"] = np.concatenate([x["action"], np.eye(5)[x["number"] % 5]], 1)
            x["action"] = x["action"].astype(np.float32)
    pack = str(rng.choice(["", "gzip", "zlib"])) if form == "tfrecord" else ""
    shards = int(rng.integers(1, len(examples) + 1))
    options = {"form": form, "shards": shards, "pack": pack}
    place = write_version(folder / "toy" / "1.0.0", step, examples, **options)
    state = {"state": lambda n: numbered(n, (2,), np.float32)}
    return place, as_stream(episodes, more | state)


def draw_minari(rng, folder):
    """(path, stream) of a random data set of Minari."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    spaces = gymnasium.spaces
    episodes = draw_episodes(rng)
    more = {
        "image": lambda n: pictures(n, 3),
        "arm_view": lambda n: pictures(n, 1),
        "first": lambda n: pictures(n, 3),
        "log/depth": lambda n: pictures(n, 1, np.float32),
        "observation_action": lambda n: numbered(n, (2,), np.float32),
        "arm_joint": lambda n: numbered(n, (2, 3), np.float32),
        "language": lambda n: np.array([f"do {i}" for i in n]),
    }
    more = some(rng, more)
    byte, box = (0, 255), spaces.Box
    kinds = {
        "image": box(*byte, (SIDE, SIDE, 3), np.uint8),
        "arm_view": box(*byte, (SIDE, SIDE), np.uint8),
        "first": box(*byte, (3, SIDE, SIDE), np.uint8),
        "log/depth": box(0, np.inf, (SIDE, SIDE, 1), np.float32),
        "observation_action": box(-np.inf, np.inf, (2,), np.float32),
        "arm_joint": box(-np.inf, np.inf, (2, 3), np.float64),
        "language": spaces.Text(20),
    }
    theirs = {
        "log/depth": "depth",
        "observation_action": "action",
        "language": "mission",
    }

    def arrange(name, x):
        if name == "language":
            return x.tolist()
        if name == "arm_view":
            return x[..., 0]
        return (
            x.transpose(0, 3, 1, 2) if name == "first" else x.astype(kinds[name].dtype)
        )

    def nest(values, state):
        nested = {"state": state}
        for name, x in values.items():
            *outer, last = (
                name.split("_")
                if name.startswith("arm_")
                else (theirs.get(name, name),)
            )
            inner = nested
            for key in outer:
                inner = inner.setdefault(key, {})
            inner[last] = x
        return nested

    def as_space(nested):
        return spaces.Dict(
            {k: as_space(x) if isinstance(x, dict) else x for k, x in nested.items()}
        )

    choice = rng.random() < 0.5
    act = (
        spaces.Discrete(5, start=2)
        if choice
        else box(-np.inf, np.inf, (2,), np.float32)
    )
    buffers = []
    for x in episodes:
        seen = {name: arrange(name, more[name](x["number"])) for name in more}
        state = numbered(x["number"], (2,), np.float32)
        over = x["is_terminal"][1:].tolist()
        buffers.append(
            EpisodeBuffer(
                observations=nest(seen, state),
                actions=x["number"][:-1] % 5 + 2 if choice else x["action"][:-1],
                rewards=x["reward"][1:].tolist(),
                terminations=over,
                truncations=[False] * (len(over) - 1) + [not over[-1]],
            )
        )
        if choice:
            x["action"] = np.eye(5, dtype=np.float32)[x["number"] % 5]
        x["action"][-1] = 0
    state = box(-np.inf, np.inf, (2,), np.float32)
    with warnings.catch_warnings(action="ignore"):  # it has no author
        minari.create_dataset_from_buffers(
            "fuzz/toy-v0",
            buffer=buffers,
            observation_space=as_space(nest({k: kinds[k] for k in more}, state)),
            action_space=act,
            jpeg_encoding=False,
        )
    place = str(folder / "minari" / "fuzz" / "toy-v0")
    state = {"state": lambda n: numbered(n, (2,), np.float32)}
    return place, as_stream(episodes, more | state)
