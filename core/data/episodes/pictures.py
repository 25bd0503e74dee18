"""Pictures of trajectories, and the features that stand in their place."""

import cv2
import numpy as np

# "features/NAME", float16 [T, N, D], are those of a frozen encoder in place of picture NAME.
# `about` of such recordings has "features": {"encoder": digest of its weights, "size": pixels
# per side of the pictures, "source": name of the recordings with pictures}.
FEATURES = "features/"


def resized(pictures, size: int) -> np.ndarray:
    """uint8 [n, H, W, 3] -> [n, size, size, 3] by averaging areas, or bilinear to enlarge."""
    if pictures.shape[1:3] == (size, size):
        return np.ascontiguousarray(pictures)
    how = cv2.INTER_AREA if min(pictures.shape[1:3]) > size else cv2.INTER_LINEAR
    return np.stack([cv2.resize(x, (size, size), interpolation=how) for x in pictures])
