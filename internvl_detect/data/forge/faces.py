"""Where the face is in a photograph that its owner says shows one face, aligned: an upright ellipse in the middle.

No face is detected: OpenCV 5 ships no detector that works without a model file of its own. The photograph must be a
cut like those of FFHQ or CelebA, where the face fills the middle; whether that may be so is checked by the colour of
skin alone. Not here: the swap (``methods``).

    region = face_region(rgb, rng)
"""

from __future__ import annotations

import numpy as np

from internvl_detect.data.forge.finish import Array
from internvl_detect.errors import DataError

CENTRE_YX = (0.54, 0.50)  # shares of height and width
HALF_AXES_YX = (0.34, 0.27)
SKIN_CB, SKIN_CR = (77, 127), (133, 173)  # Chai and Ngan, 1999
LEAST_SKIN = 0.4


def face_region(rgb: Array, rng: np.random.Generator) -> Array:
    """A boolean (H, W) ellipse over the middle of an aligned face; its place and size vary a little.

    Raises DataError when less than 40 % of it has the colour of skin (so a grey picture is refused).
    """
    h, w = rgb.shape[:2]
    cy, cx = (c + rng.uniform(-0.02, 0.02) for c in CENTRE_YX)
    ay, ax = (a * rng.uniform(0.9, 1.1) for a in HALF_AXES_YX)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    ellipse = ((y / h - cy) / ay) ** 2 + ((x / w - cx) / ax) ** 2 <= 1
    share = skin_share(rgb[ellipse])
    if share < LEAST_SKIN:
        found = f"{100 * share:.0f} % of the middle has the colour of skin"
        raise DataError(found, expected=f"an aligned face in colour, with {100 * LEAST_SKIN:.0f} % or more")
    return ellipse


def skin_share(rgb: Array) -> float:
    """Share of the (N, 3) uint8 pixels whose chroma lies in the box of Chai and Ngan (1999); 0 for none."""
    if not len(rgb):
        return 0.0
    r, g, b = rgb.astype(np.float32).T
    cb = 128 - 0.168736 * r - 0.331264 * g + 0.5 * b
    cr = 128 + 0.5 * r - 0.418688 * g - 0.081312 * b
    inside = (cb >= SKIN_CB[0]) & (cb <= SKIN_CB[1]) & (cr >= SKIN_CR[0]) & (cr <= SKIN_CR[1])
    return float(inside.mean())
