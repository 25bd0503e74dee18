"""Draws and encodes uint8 RGB pictures, [H, W, 3] or [T, H, W, 3], in numpy and OpenCV."""

import cv2
import numpy as np

PAPER, INK = 255, (32, 32, 32)
HALO = (0, 0, 0)
FONT, FONT_SIZE, LINE = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 15  # 11 pixels high: legible
ORANGE = (255, 122, 0)
FRAME_MS = 125  # duration of a frame of an animated PNG

# One color per body: bright, and distinct for color-blind readers too.
COLORS = (
    (255, 176, 0),
    (86, 190, 255),
    (0, 214, 143),
    (255, 92, 160),
    (250, 240, 70),
    (150, 120, 255),
    (255, 96, 56),
    (230, 230, 230),
)

CONTEXT, TARGET = 1, 2  # values of cells in overlay_cells; 0 is neither


def encode_png(picture: np.ndarray) -> bytes:
    """The bytes of a PNG file of a picture [H, W, 3], or an animated one of [T, H, W, 3]."""
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3, picture.shape
    bgr = np.ascontiguousarray(picture[..., ::-1])
    if picture.ndim == 3:
        ok, png = cv2.imencode(".png", bgr)
    else:
        animation = cv2.Animation()  # loops; simple viewers show the first frame
        animation.frames = list(bgr)
        animation.durations = [FRAME_MS] * len(bgr)
        ok, png = cv2.imencodeanimation(".png", animation)
    assert ok, picture.shape
    return png.tobytes()


def rgb(x: np.ndarray) -> np.ndarray:
    """[..., C] -> [..., 3]: unchanged if C is 3, else the first channel as gray."""
    return x if x.shape[-1] == 3 else np.repeat(x[..., :1], 3, -1)


def tile(rows, *, pad: int = 4) -> np.ndarray:
    """Grid of pictures on a white background: rows of [h, w, 3] -> [H, W, 3].

    A row is as high as its highest picture, a column as wide as its widest one; rows may
    differ in length. A clip [T, h, w, 3] serves as a row of frames. pad: pixels between.
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
    """Nearest-neighbor enlargement: [..., h, w, 3] -> [..., h * factor, w * factor, 3]."""
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """A text, wrapped to the width, above the picture: [h, w, 3] -> [H, w, 3]."""
    h, w, _ = picture.shape
    lines = wrap(text, w - 4)
    head = np.full((LINE * len(lines) + 4, w, 3), PAPER, np.uint8)
    for i, line in enumerate(lines):
        corner = (2, LINE * (i + 1) - 3)
        cv2.putText(head, line, corner, FONT, FONT_SIZE, INK, 1, cv2.LINE_AA)
    return np.concatenate([head, picture])


def wrap(text: str, width: int) -> list[str]:
    """Lines of whole words, each at most `width` pixels wide unless one word is wider."""
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
    """Draw a mask over frames: frames [T, H, W, 3], cells [t, h, w] -> [T, H, W, 3].

    A cell is 1 (context: pixels unchanged), 2 (target: gray, dimmed by a quarter, mixed
    with the color `tint` by `strength`) or 0 (neither: gray, darkened by `fade`).
    """
    T, H, W, _ = frames.shape
    t, h, w = cells.shape
    assert T % t == H % h == W % w == 0, (frames.shape, cells.shape)
    cells = cells.repeat(T // t, 0).repeat(H // h, 1).repeat(W // w, 2)[..., None]
    gray = frames.mean(-1, keepdims=True)
    hidden = 0.75 * (1 - strength) * gray + strength * np.array(tint)
    unused = np.broadcast_to((1 - fade) * gray, frames.shape)
    shown = np.select([cells == CONTEXT, cells == TARGET], [frames, hidden], unused)
    return np.rint(shown).astype(np.uint8)


def pca_maps(features: np.ndarray, *, percentile: float = 1.0) -> np.ndarray:
    """Color tokens by principal components: [N, t, h, w, D] -> uint8 [N, t, h, w, 3].

    Red, green and blue are the first three principal components of all tokens jointly,
    each scaled so that `percentile` percent of the tokens saturate at either end. The sign
    makes the largest loading positive. Components without variance, and those beyond D,
    are mid-gray. Raises ValueError on NaN or infinity.
    """
    D = features.shape[-1]
    x = features.reshape(-1, D).astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("features for pca_maps contain NaN or infinity")
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
    colors = np.rint(255 * y.clip(0, 1)).astype(np.uint8)
    return colors.reshape(*features.shape[:-1], 3)


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
    """Rings at the true positions of K bodies, crosses at the predicted ones.

    frames: [T, H, W, 3]. true, predicted: [T, K, 2], (x right, y down) in frame sides.
    velocities: [T, K, 2] in sides per second; arrows show the way of `seconds`.
    Points that are not finite are left out. Returns [T, H * scale, W * scale, 3].
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
            color = COLORS[k % len(COLORS)]
            if true_velocity is not None:
                _arrow(canvas[t], true[t, k], true_velocity[t, k] * seconds, color)
            if predicted_velocity is not None:
                reach = predicted_velocity[t, k] * seconds
                _arrow(canvas[t], predicted[t, k], reach, color)
            _mark(canvas[t], true[t, k], _ring, color)
            _mark(canvas[t], predicted[t, k], _cross, color)
    return canvas


# OpenCV takes fixed-point coordinates: SHIFT binary digits after the point.
SHIFT = 4


def _pixel(picture, point):
    """Frame sides -> fixed-point pixel centers; None if the point is not finite."""
    H, W, _ = picture.shape
    if not np.isfinite(point).all():
        return None
    pixel = np.clip(point, -4, 5) * (W, H) - 0.5  # clipped to fit into int32
    return tuple(int(v) for v in np.rint(pixel * 2**SHIFT))


def _mark(picture, point, mark, color):
    place = _pixel(picture, point)
    if place is not None:
        size = max(3, picture.shape[0] // 48)
        mark(picture, place, size, HALO, 4)
        mark(picture, place, size, color, 2)


def _ring(picture, place, size, color, thickness):
    radius = 2 * size * 2**SHIFT
    cv2.circle(picture, place, radius, color, thickness, cv2.LINE_AA, SHIFT)


def _cross(picture, place, size, color, thickness):
    (x, y), r = place, size * 2**SHIFT
    for d in (-r, r):
        ends = (x - d, y - r), (x + d, y + r)
        cv2.line(picture, *ends, color, thickness, cv2.LINE_AA, SHIFT)


def _arrow(picture, point, reach, color):
    start, end = _pixel(picture, point), _pixel(picture, point + reach)
    if start is None or end is None or start == end:
        return
    for paint, thickness in ((HALO, 3), (color, 1)):
        cv2.arrowedLine(picture, start, end, paint, thickness, cv2.LINE_AA, SHIFT, 0.2)


def arrows(actions: np.ndarray, *, width: int, height: int = 48) -> list[np.ndarray]:
    """One tile [height, width, 3] per action: actions [n, A] -> n arrows.

    An arrow shows the first two numbers, right and down; the longest fills its tile.
    """
    pairs = np.pad(actions[:, :2], ((0, 0), (0, max(0, 2 - actions.shape[1]))))
    pairs = 0.45 * height * pairs / max(np.abs(pairs).max(initial=0), 1e-6)
    tiles = []
    for reach in pairs:
        drawn = np.full((height, width, 3), PAPER, np.uint8)
        middle = np.array([width // 2, height // 2])
        end = np.rint(middle + reach).astype(int)
        cv2.circle(drawn, middle.tolist(), 2, INK, -1, cv2.LINE_AA)
        cv2.arrowedLine(
            drawn, middle.tolist(), end.tolist(), INK, 2, cv2.LINE_AA, 0, 0.25
        )
        tiles.append(drawn)
    return tiles
