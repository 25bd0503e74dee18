"""Pictures for people, in numpy and OpenCV: uint8 RGB, [H, W, 3] or [T, H, W, 3]."""

import cv2
import numpy as np

PAPER, INK = 255, (32, 32, 32)
HALO = (0, 0, 0)
FONT, FONT_SIZE, LINE = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 15  # 11 pixels high: legible
ORANGE = (255, 122, 0)
FRAME_MS = 125  # of a film

# One colour per body: bright, far apart, told apart by colour-blind readers too.
COLOURS = (
    (255, 176, 0),
    (86, 190, 255),
    (0, 214, 143),
    (255, 92, 160),
    (250, 240, 70),
    (150, 120, 255),
    (255, 96, 56),
    (230, 230, 230),
)

CONTEXT, TARGET = 1, 2  # overlay_cells; any other cell is neither


def encode_png(picture: np.ndarray) -> bytes:
    """PNG file of a uint8 RGB picture [H, W, 3]; of a clip [T, H, W, 3], animated."""
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3, picture.shape
    bgr = np.ascontiguousarray(picture[..., ::-1])
    if picture.ndim == 3:
        ok, png = cv2.imencode(".png", bgr)
    else:
        film = (
            cv2.Animation()
        )  # over and over; a viewer of stills shows the first frame
        film.frames, film.durations = list(bgr), [FRAME_MS] * len(bgr)
        ok, png = cv2.imencodeanimation(".png", film)
    assert ok, picture.shape
    return png.tobytes()


def rgb(x: np.ndarray) -> np.ndarray:
    """Pictures of any number of channels [..., C] as ones of three: the first as gray."""
    return x if x.shape[-1] == 3 else np.repeat(x[..., :1], 3, -1)


def tile(rows, *, pad: int = 4) -> np.ndarray:
    """Grid of pictures on white paper: rows of [h, w, 3] -> [H, W, 3].

    Rows may be short, pictures may differ in size: a row is as high as its highest
    picture, a column as wide as its widest. A clip [T, h, w, 3] is a row of frames.
    """
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    columns = max(len(row) for row in rows)
    widths = [max(r[c].shape[1] for r in rows if c < len(r)) for c in range(columns)]
    H = sum(heights) + pad * (len(heights) - 1)
    W = sum(widths) + pad * (len(widths) - 1)
    sheet = np.full((H, W, 3), PAPER, np.uint8)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for picture, width in zip(row, widths, strict=False):
            h, w, _ = picture.shape
            sheet[y : y + h, x : x + w] = picture
            x += width + pad
        y += height + pad
    return sheet


def upscale(pictures: np.ndarray, factor: int = 4) -> np.ndarray:
    """Every pixel a square of pixels: [..., h, w, 3] -> [..., h * f, w * f, 3]."""
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture under its text, wrapped to its width: [h, w, 3] -> [H, w, 3]."""
    h, w, _ = picture.shape
    lines = wrap(text, w - 4)
    head = np.full((LINE * len(lines) + 4, w, 3), PAPER, np.uint8)
    for i, line in enumerate(lines):
        place = (2, LINE * (i + 1) - 3)
        cv2.putText(head, line, place, FONT, FONT_SIZE, INK, 1, cv2.LINE_AA)
    return np.concatenate([head, picture])


def wrap(text: str, width: int) -> list[str]:
    """Break a text between words into lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or _text_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _text_width(text):
    return cv2.getTextSize(text, FONT, FONT_SIZE, 1)[0][0]


def overlay_cells(
    frames: np.ndarray,
    cells: np.ndarray,
    *,
    tint: tuple[int, int, int] = ORANGE,
    strength: float = 0.45,
    fade: float = 0.75,
) -> np.ndarray:
    """Show what a mask hides: frames [T, H, W, 3], cells [t, h, w] -> [T, H, W, 3].

    Context cells (1) keep their pixels exactly. Target cells (2) are mixed with `tint`
    by `strength` and dimmed by a quarter. Cells that are neither (0) are greyed and
    darkened by `fade`.
    """
    T, H, W, _ = frames.shape
    t, h, w = cells.shape
    assert T % t == H % h == W % w == 0, (frames.shape, cells.shape)
    cells = cells.repeat(T // t, 0).repeat(H // h, 1).repeat(W // w, 2)[..., None]
    grey = frames.mean(-1, keepdims=True)
    hidden = 0.75 * (1 - strength) * grey + strength * np.array(tint)
    unused = np.broadcast_to((1 - fade) * grey, frames.shape)
    shown = np.select([cells == CONTEXT, cells == TARGET], [frames, hidden], unused)
    return np.rint(shown).astype(np.uint8)


def pca_maps(features: np.ndarray, *, percentile: float = 1.0) -> np.ndarray:
    """Colour tokens by what they say: [N, t, h, w, D] -> uint8 [N, t, h, w, 3].

    Red, green and blue are the first three principal components of all tokens jointly,
    each stretched so that `percentile` of the tokens saturate at either end. A
    component's sign is such that its largest loading is positive. D < 3 and features
    without variance are grey.
    """
    D = features.shape[-1]
    x = features.reshape(-1, D).astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("features to colour hold NaN or infinity")
    x -= x.mean(0)
    variance, axes = np.linalg.eigh(x.T @ x)  # ascending
    axes = axes[:, ::-1][:, :3]
    largest = np.abs(axes).argmax(0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    y = np.zeros((len(x), 3))
    y[:, : axes.shape[1]] = x @ axes
    low, high = np.percentile(y, [percentile, 100 - percentile], axis=0)
    # A component of 1e-6 of the largest standard deviation is rounding, not a feature.
    dull = high - low <= 1e-6 * np.sqrt(max(variance[-1], 0) / len(x))
    y = np.where(dull, 0.5, (y - low) / np.where(dull, 1, high - low))
    colours = np.rint(255 * y.clip(0, 1)).astype(np.uint8)
    return colours.reshape(*features.shape[:-1], 3)


def draw_points(
    frames: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    *,
    true_velocity: np.ndarray | None = None,
    predicted_velocity: np.ndarray | None = None,
    seconds: float = 0.25,
    scale: int = 4,
) -> np.ndarray:
    """Rings where K bodies are, crosses where they are thought to be, a colour each.

    frames [T, H, W, 3]; positions [T, K, 2] are (x right, y down) in frame sides;
    velocities [T, K, 2] in sides per second, drawn as far as `seconds` carry them.
    Points that are not finite are left out. -> [T, H * scale, W * scale, 3].
    """
    T, K, _ = true.shape
    assert len(frames) == T and predicted.shape == true.shape, (
        frames.shape,
        true.shape,
        predicted.shape,
    )
    canvas = np.ascontiguousarray(upscale(frames, scale))
    for t in range(T):
        for k in range(K):
            colour = COLOURS[k % len(COLOURS)]
            if true_velocity is not None:
                _arrow(canvas[t], true[t, k], true_velocity[t, k] * seconds, colour)
            if predicted_velocity is not None:
                reach = predicted_velocity[t, k] * seconds
                _arrow(canvas[t], predicted[t, k], reach, colour)
            _mark(canvas[t], true[t, k], _ring, colour)
            _mark(canvas[t], predicted[t, k], _cross, colour)
    return canvas


# OpenCV takes fixed-point coordinates: SHIFT binary digits after the point.
SHIFT = 4


def _pixel(picture, point):
    """Frame sides -> fixed-point pixel centres; None where nothing can be drawn."""
    H, W, _ = picture.shape
    if not np.isfinite(point).all():
        return None
    place = np.clip(point, -4, 5) * (W, H) - 0.5  # int32 must hold it
    return tuple(int(v) for v in np.rint(place * 2**SHIFT))


def _mark(picture, point, mark, colour):
    place = _pixel(picture, point)
    if place is not None:
        size = max(3, picture.shape[0] // 48)
        mark(picture, place, size, HALO, 4)
        mark(picture, place, size, colour, 2)


def _ring(picture, place, size, colour, thickness):
    radius = 2 * size * 2**SHIFT
    cv2.circle(picture, place, radius, colour, thickness, cv2.LINE_AA, SHIFT)


def _cross(picture, place, size, colour, thickness):
    (x, y), r = place, size * 2**SHIFT
    for d in (-r, r):
        ends = (x - d, y - r), (x + d, y + r)
        cv2.line(picture, *ends, colour, thickness, cv2.LINE_AA, SHIFT)


def _arrow(picture, point, reach, colour):
    start, end = _pixel(picture, point), _pixel(picture, point + reach)
    if start is None or end is None or start == end:
        return
    for paint, thickness in ((HALO, 3), (colour, 1)):
        cv2.arrowedLine(picture, start, end, paint, thickness, cv2.LINE_AA, SHIFT, 0.2)


def arrows(actions: np.ndarray, *, width: int, height: int = 48) -> list[np.ndarray]:
    """A tile for each action [n, A]: its first two numbers, right and down.

    The longest fills its tile.
    """
    pairs = np.pad(actions[:, :2], ((0, 0), (0, max(0, 2 - actions.shape[1]))))
    pairs = 0.45 * height * pairs / max(np.abs(pairs).max(initial=0), 1e-6)
    tiles = []
    for reach in pairs:
        drawn = np.full((height, width, 3), PAPER, np.uint8)
        begin = np.array([width // 2, height // 2])
        end = np.rint(begin + reach).astype(int)
        cv2.circle(drawn, begin.tolist(), 2, INK, -1, cv2.LINE_AA)
        cv2.arrowedLine(
            drawn, begin.tolist(), end.tolist(), INK, 2, cv2.LINE_AA, 0, 0.25
        )
        tiles.append(drawn)
    return tiles
