"""LeRobot data sets: places of episodes, names, depth, and messages for damaged files."""

import json
import re
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import robots
from lerobot_sets import KEY, numbers_in, write_numbers, write_set
from pyarrow import parquet
from robots import LENGTHS

from core.data import source_names
from core.data.clips import View
from core.data.episodes.steps import RESERVED, check_steps
from core.data.records import BadSample
from core.prepare import run
from core.prepare.trajectory_pieces import TrajectoryPlan

FPS = 10
COUNTS = (6, 8, 7)
BEGINS = np.array([0, 6, 14]) / FPS
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{KEY}/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos by their number of frames."""
    folder = tmp_path_factory.mktemp("videos")
    for count in (sum(COUNTS), sum(COUNTS) + 9, 19):
        write_numbers(folder / f"{count}.mp4", np.arange(count) / FPS)
    return folder


def read_all(place):
    """The frames' numbers of each episode, or the reason why it is refused."""
    recordings = source_names.recordings(place)
    found = []
    for index in range(len(recordings)):
        try:
            found.append(numbers_in(recordings.load(index)["images_top"][:]).tolist())
        except BadSample as error:
            found.append(str(error))
    return found


def right(index, begin=None):
    """The numbers of an episode's frames; begin: of the first, its own by default."""
    begin = round(BEGINS[index] * FPS) if begin is None else begin
    return list(range(begin, begin + COUNTS[index]))


def placed(folder, video, begins, **more):
    """A data set whose episodes begin at these seconds of the video."""
    episodes = [
        (np.arange(n) / FPS, begin, begin + n / FPS)
        for n, begin in zip(COUNTS, begins, strict=True)
    ]
    return write_set(folder, video, episodes, fps=FPS, **more)


@pytest.mark.parametrize(
    ("frames", "moves", "refused"),
    [
        (21, (0, 0, 0), {}),
        (30, (0, 0.3, 0.5), {}),  # gaps between episodes
        # The middle one alone is wrong: it reaches into another one.
        (30, (0, 0.3, 0), {1: "step 5 at 1.4000 s .* nearest one is at 1.3000 s"}),
        (30, (0, -0.2, 0), {1: "step 0 at 0.4000 s .* nearest one is at 0.6000 s"}),
        # All lie elsewhere than their lengths, which fill the video, place them.
        (
            21,
            (0.5, 0.5, 0.5),
            {0: "begin at 0.5.* at 0.0000", 1: "1.1", 2: "step 2 at"},
        ),
        (21, (9, 9, 9), {k: f"at {9 + BEGINS[k]:.4f} s.*at 2.0000" for k in range(3)}),
        # The video has fewer frames than there are steps.
        (19, (0, 0, 0), {2: "step 5 at 1.9000 s .* nearest one is at 1.8000 s"}),
    ],
)
def test_episodes_have_frames_of_their_own(frames, moves, refused, videos, tmp_path):
    begins = BEGINS + moves
    found = read_all(placed(tmp_path / "set", videos / f"{frames}.mp4", begins))
    for index, begin in enumerate(begins):
        if index in refused:
            assert re.search(f"{VIDEO}: .*{refused[index]}", str(found[index]))
        else:
            assert found[index] == right(index, round(begin * FPS))


@pytest.mark.parametrize("end", [None, np.nan])
def test_an_episode_without_an_end_is_refused_alone(end, videos, tmp_path):
    episodes = [
        (np.arange(n) / FPS, begin, end if k == 1 else begin + n / FPS)
        for k, (n, begin) in enumerate(zip(COUNTS, BEGINS, strict=True))
    ]
    place = write_set(tmp_path / "set", videos / "30.mp4", episodes, fps=FPS)
    found = read_all(place)
    assert found[0] == right(0) and found[2] == right(2)
    assert "has no from_timestamp and to_timestamp in the video of" in found[1]


def test_frame_tolerance_is_a_field(videos, tmp_path):
    late = [(np.arange(n) / FPS + 0.04, 0.0, None) for n in (6, 6)]
    place = write_set(tmp_path / "set", videos / "21.mp4", late, fps=FPS, old=True)
    assert read_all(place) == [list(range(6))] * 2
    strict = source_names.recordings(place, "", 0.3)
    with pytest.raises(BadSample, match=r"step 0 at 0.0400 s .* 0.3 .* at 0.0000 s"):
        strict.load(0)["images_top"][:]
    with pytest.raises(ValueError, match="data.frame_tolerance is -1; expected 0 or"):
        source_names.recordings(place, "", -1)


@pytest.mark.parametrize("late", [0.0, 0.45, 0.5])
def test_a_tick_may_be_as_long_as_a_frame(late, tmp_path):
    write_numbers(tmp_path / "x.avi", np.arange(20) / FPS)
    steps = [((np.arange(18) + 1 + late) / FPS, None, None)]
    place = write_set(tmp_path / "set", tmp_path / "x.avi", steps, fps=FPS, old=True)
    frames = source_names.recordings(place).load(0)["images_top"]
    for start in range(18):
        shown = numbers_in(frames[start : start + 3])
        assert shown.tolist() == list(range(start + 1, min(start + 4, 19)))
        some = numbers_in(frames[start : start + 6 : 3])
        assert some.tolist() == list(range(start + 1, min(start + 7, 19), 3))


def test_a_slow_camera_has_its_own_frame_interval(videos, tmp_path):
    steps = [(np.arange(12) / (2 * FPS), 0.0, 0.6)]
    place = write_set(tmp_path / "set", videos / "21.mp4", steps, fps=2 * FPS)
    with pytest.raises(BadSample, match=r"step 1 at 0.0500 s .* at 0.0000 s"):
        source_names.recordings(place).load(0)["images_top"][:]
    change_info(
        tmp_path / "set", lambda x: x[KEY].update(video_info={"video.fps": FPS})
    )
    assert read_all(place) == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]]


def test_a_window_blames_the_episode_that_it_goes_on_in(videos, tmp_path):
    stamps = [np.arange(n) / FPS + (k == 1) * 1.7e9 for k, n in enumerate(COUNTS)]
    episodes = [
        (x, b, b + n / FPS) for x, b, n in zip(stamps, BEGINS, COUNTS, strict=True)
    ]
    place = write_set(
        tmp_path / "set", videos / "21.mp4", episodes, fps=FPS, kind=float
    )
    windows = source_names.trajectories(place, "", steps=8, apart=1, world=None)
    with pytest.raises(BadSample, match="step 0 at 1700000000.6000 s") as error:
        windows.load(0)
    assert error.value.blamed.endswith("set: episode 1")
    # A clip that fits its own episode does not look at the next one.
    view = View(frames=8, fps=FPS, size=16)
    clips = source_names.videos(f"camera:{place}", "", view, None)
    clips.load(0, np.random.default_rng(0))


# Numbers with the names of the schema's own arrays, as observations.
OWN = {f"observation.{name}": name for name in RESERVED}


def test_observations_with_names_of_the_schema_are_kept_apart(tmp_path):
    more = {
        name: [np.full(n, k + 0.5).tolist() for n in LENGTHS]
        for k, name in enumerate(OWN)
    }
    place = robots.write_lerobot(tmp_path / "set", as_video=False, **more)
    steps = check_steps(source_names.recordings(place).load(1))
    for k, name in enumerate(OWN.values()):
        kept = steps[f"observation_{name}"]
        np.testing.assert_array_equal(kept, np.full((12, 1), k + 0.5))
    plain = robots.expected("lerobot", 1)
    robots.assert_same({k: steps[k][:] for k in plain}, plain)


def test_arrays_are_pictures_numbers_or_maps(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {
        "gray": ("uint8", (20, 24)),
        "first": ("uint8", (3, 20, 24)),
        "range": ("uint16", (20, 24)),
        "arms": ("float32", (2, 7)),
    }
    more = {
        f"observation.{name}": [
            rng.integers(0, 256, (n, *shape)).astype(kind).tolist() for n in LENGTHS
        ]
        for name, (kind, shape) in shapes.items()
    }
    place = robots.write_lerobot(tmp_path / "set", as_video=False, **more)

    def state(features):
        for name, (kind, shape) in shapes.items():
            features[f"observation.{name}"] |= {"dtype": kind, "shape": list(shape)}

    change_info(tmp_path / "set", state)
    steps = source_names.recordings(place).load(0)
    given = {name: np.array(more[f"observation.{name}"][0]) for name in shapes}
    for name, wanted, kind in (
        ("gray", given["gray"][..., None], np.uint8),
        ("first", given["first"].transpose(0, 2, 3, 1), np.uint8),
        ("log/range", given["range"], np.uint16),
        ("arms", given["arms"], np.float32),
    ):
        assert steps[name].dtype == kind
        np.testing.assert_array_equal(steps[name], wanted)


def change_info(place, change):
    """Let `change` edit the features in meta/info.json."""
    path = place / "meta/info.json"
    info = json.loads(path.read_text())
    change(info["features"])
    path.write_text(json.dumps(info))


def test_features_of_one_name_are_refused(tmp_path):
    robots.write_lerobot(tmp_path / "set", as_video=False)
    number = {"dtype": "float32", "shape": [1]}
    change_info(
        tmp_path / "set", lambda x: x.update({"observation.images_top": number})
    )
    with pytest.raises(
        ValueError, match=r"'observation.images.top' and 'observation.im"
    ):
        source_names.recordings(str(tmp_path / "set"))
    robots.write_lerobot(tmp_path / "none", as_video=False)
    change_info(tmp_path / "none", lambda x: x.pop("action"))
    with pytest.raises(ValueError, match="none has no feature 'action' in meta/info"):
        source_names.recordings(str(tmp_path / "none"))


def test_text_is_kept_for_evaluation(tmp_path):
    more = {"observation.language": [["left"] * n for n in LENGTHS]}
    place = robots.write_lerobot(tmp_path / "set", as_video=False, **more)
    change_info(
        tmp_path / "set", lambda x: x["observation.language"].update(dtype="string")
    )
    steps = source_names.recordings(place).load(0)
    assert steps["log/language"].tolist() == ["left"] * 7
    assert steps["language"].tolist() == ["push 0"] * 7


# Depth of step t in metres; columns differ, and reach from near to far.
def depth_of(t, rows=20, columns=24):
    return np.linspace(0.3, 6 + 0.1 * t, columns) * np.ones((rows, 1))


def quantized(depth, logarithmic):
    """LeRobot's codes of 12 bits, for 0.1 to 8 m and a shift of 2 m."""
    low, high, x = 0.1, 8.0, depth
    if logarithmic:
        low, high, x = (np.log(y + 2.0) for y in (low, high, x))
    return np.rint((x - low) / (high - low) * 4095).astype(np.uint16)


def write_gray(path, images, pix_fmt):
    """A lossless gray video of uint16 images."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=robots.RATE)
        stream.height, stream.width = images[0].shape
        stream.pix_fmt = pix_fmt
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, robots.RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


TOP = "observation.images.top"
FLAG = {"is_depth_map": True, "video.depth_min": 0.1, "video.depth_max": 8.0}
FLAG |= {"video.shift": 2.0}


@pytest.mark.parametrize(
    ("info", "unit"),
    [
        (FLAG | {"video.use_log": True, "depth_unit": "m"}, "m"),
        (FLAG | {"video.use_log": False, "depth_unit": "mm"}, "mm"),
        (FLAG | {"video.use_log": True}, "mm"),
        ({"video.pix_fmt": "gray12le"}, ""),
        ({}, None),
    ],
)
def test_depth_video_keeps_its_unit_and_range(info, unit, tmp_path):
    place = robots.write_lerobot(tmp_path / "set")
    total = sum(LENGTHS)
    depths = [depth_of(t) for t in range(total)]
    codes = [quantized(x, info.get("video.use_log", True)) for x in depths]
    path = tmp_path / "set" / f"videos/{TOP}/chunk-000/file-000.mp4"
    path.unlink()
    write_gray(path.with_suffix(".mkv"), codes, "gray12le")
    path.with_suffix(".mkv").rename(path)
    change_info(tmp_path / "set", lambda x: x[TOP].update(info=info, shape=[20, 24, 1]))
    recordings = source_names.recordings(place)
    if unit is None:  # nothing says that it is depth
        with pytest.raises(BadSample, match="gray12le frames, .* set is_depth_map"):
            recordings.load(1)["images_top"][:]
        return
    steps = recordings.load(1)
    assert "images_top" not in steps
    found = steps["log/images_top"][2:5]
    wanted = np.stack([depth_of(t) for t in range(9, 12)])[..., None]
    units = {"log/images_top": unit} if unit else {}
    assert recordings.about["units"] == units
    if unit == "m":
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=0.002)
    elif unit == "mm":
        assert found.dtype == np.uint16
        np.testing.assert_allclose(found, 1000 * wanted, atol=2)
    else:
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found[..., 0], np.stack(codes)[9:12])
    with pytest.raises(BadSample, match="has no camera ''; it has none"):
        view = View(frames=2, fps=5, size=16)
        clips = source_names.videos(f"camera:{place}", "", view, None)
        clips.load(0, np.random.default_rng(0))


def test_depth_in_parquet_keeps_its_numbers_when_prepared(tmp_path):
    """A 16-bit PNG, and an array; both stay what they are in a prepared data set."""
    maps = [
        [depth_of(t).astype(np.float32).tolist() for t in range(n)] for n in LENGTHS
    ]
    place = robots.write_lerobot(
        tmp_path / "set", as_video=False, **{"observation.range": maps}
    )
    path = tmp_path / "set" / DATA
    table = parquet.read_table(path)
    images = [1000 * depth_of(t).astype(np.float32) for t in range(len(table))]
    cells = [
        {"bytes": cv2.imencode(".png", x.astype(np.uint16))[1].tobytes(), "path": ""}
        for x in images
    ]
    at = table.column_names.index(TOP)
    table = table.set_column(at, TOP, [cells])
    parquet.write_table(table, path)
    change_info(
        tmp_path / "set", lambda x: x["observation.range"].update(shape=[20, 24])
    )
    plan = TrajectoryPlan(place, held=0)
    options = {"workers": 1, "shard_mb": 64, "say": id}
    run.prepare(run.TRAJECTORIES, plan, str(tmp_path / "ready"), **options)
    for name in (place, str(tmp_path / "ready")):
        steps = source_names.recordings(name).load(1)
        found = steps["log/images_top"][:]
        wanted = np.stack(images)[7:19, ..., None].astype(np.uint16)
        assert found.dtype == np.uint16 and steps["log/range"].dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(steps["log/range"], np.array(maps[1], np.float32))
        assert not any(name.startswith("images") for name in steps)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path):
    path.write_text(POINTER)


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (f"{x}", spoil, "is a git-LFS pointer, .* git lfs pull")
        for x in ("meta/info.json", "meta/tasks.parquet", EPISODES, DATA, VIDEO)
    ]
    + [
        ("meta/info.json", cut, "no valid JSON: .* download it again"),
        ("meta/tasks.parquet", cut, "has no footer: it is cut, .*finalize"),
        (EPISODES, cut, "has no footer: .* download or record it again"),
        (DATA, cut, "has no footer: .* download or record it again"),
        (VIDEO, cut, "has no index|is cut|Invalid data"),
        (EPISODES, lambda x: x.unlink(), "no episodes in meta/episodes.*finalize"),
        (DATA, lambda x: x.unlink(), "does not exist; download"),
        (VIDEO, lambda x: x.unlink(), "does not exist; download"),
        (DATA, lambda x: x.write_bytes(b""), "is empty; download it again"),
    ],
)
def test_damaged_files_are_named_with_the_remedy(file, damage, words, videos, tmp_path):
    place = placed(tmp_path / "set", videos / "21.mp4", BEGINS)
    path = tmp_path / "set" / file
    content = path.read_bytes()
    path.unlink()  # it may be a link to the video of all tests
    path.write_bytes(content)
    damage(path)
    shown = "" if words.startswith("no episodes") else re.escape(file)
    with pytest.raises((BadSample, ValueError), match=f"{shown}.*({words})"):
        source_names.recordings(place).load(0)["images_top"][:]


def test_metadata_that_does_not_fit_is_refused(videos, tmp_path):
    place = placed(tmp_path / "set", videos / "21.mp4", BEGINS)
    root = tmp_path / "set"
    video = {"dtype": "video", "shape": [16, 16, 3]}
    change_info(root, lambda x: x.update({"observation.images.wrist": video}))
    words = f"{EPISODES} has no column 'videos/observation.images.wrist/chunk_index'"
    with pytest.raises(ValueError, match=words):
        source_names.recordings(place)
    change_info(root, lambda x: x.pop("observation.images.wrist"))
    change_info(root, lambda x: x.update(force={"dtype": "float32", "shape": [1]}))
    with pytest.raises(BadSample, match=f"{DATA} has no column 'force'"):
        source_names.recordings(place).load(0)
    change_info(root, lambda x: x.pop("force"))
    table = parquet.read_table(root / "meta/tasks.parquet")
    both = table.append_column("task", [["pull"]])
    parquet.write_table(both, root / "meta/tasks.parquet")
    steps = source_names.recordings(place).load(0)
    assert set(steps["language"]) == {"pull"}
    parquet.write_table(table.select(["task_index"]), root / "meta/tasks.parquet")
    with pytest.raises(ValueError, match="has the columns task_index; expected"):
        source_names.recordings(place)
