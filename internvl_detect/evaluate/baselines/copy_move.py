"""Copy-move by keypoints: places of one picture that look like each other, moved by one common offset.

SIFT keypoints of OpenCV are matched within the picture (Lowe's ratio on the second and third neighbour); matches that
agree on an offset are a copy (Amerini et al., IEEE TIFS 2011, without its affine model). Nothing is fitted. Repeated
patterns such as windows are copies to it as well.

    CopyMove().scores([picture])
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from PIL import Image as PILImage

from internvl_detect.data.forge.opencv import need_cv2

Array = np.ndarray
LONG_SIDE_PX = 1024
_MOST_POINTS = 2000
_RATIO, _NEAREST_PX, _SAME_PX = 0.6, 24.0, 6.0
_HALF = 8.0  # matches at which the score is one half


class CopyMove:
    """Score n / (n + 8) for the n matches of the largest common offset; the map is discs around their ends."""

    name, fits = "copy-move keypoints", False

    def fit(
        self, pictures: Iterable[PILImage.Image], fake: Sequence[int], groups: Sequence[Hashable] | None = None
    ) -> None:
        """Nothing to learn."""

    def scores(self, pictures: Sequence[PILImage.Image]) -> list[float]:
        """0 where no two matches agree. Raises ConfigError without OpenCV."""
        counts = [len(_copies(picture)[0]) for picture in pictures]
        return [n / (n + _HALF) for n in counts]

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[Array]:
        """1 around both ends of each match of the largest offset, a twentieth of the longer side wide; 0 elsewhere."""
        cv2, found = need_cv2("copy-move by keypoints"), []
        for picture in pictures:
            ends, scale = _copies(picture)
            drawn = np.zeros((picture.height, picture.width), np.float32)
            for x, y in (ends / scale).reshape(-1, 2):
                cv2.circle(drawn, (round(float(x)), round(float(y))), max(3, max(picture.size) // 40), 1.0, -1)
            found.append(drawn)
        return found


def _copies(picture: PILImage.Image) -> tuple[Array, float]:
    """(n, 2, 2) both ends (x, y) of the matches that share the commonest offset, in a picture scaled by the second."""
    cv2 = need_cv2("copy-move by keypoints")
    none = np.zeros((0, 2, 2))
    scale = min(1.0, LONG_SIDE_PX / max(picture.size))
    if scale < 1:
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    points, traits = cv2.SIFT_create(nfeatures=_MOST_POINTS).detectAndCompute(np.asarray(picture.convert("L")), None)
    if traits is None or len(points) < 4:
        return none, scale
    at = np.array([p.pt for p in points])
    pairs = []
    for near in cv2.BFMatcher(cv2.NORM_L2).knnMatch(traits, traits, k=4):
        others = [m for m in near if np.hypot(*(at[m.queryIdx] - at[m.trainIdx])) > _NEAREST_PX]
        if len(others) >= 2 and others[0].distance < _RATIO * others[1].distance:
            a, b = sorted((others[0].queryIdx, others[0].trainIdx), key=lambda i: tuple(at[i]))
            pairs.append((a, b))
    if not pairs:
        return none, scale
    ends = at[np.array(sorted(set(pairs)))]
    offsets = ends[:, 1] - ends[:, 0]
    same = np.hypot(*(offsets[:, None] - offsets[None]).transpose(2, 0, 1)) <= _SAME_PX
    best = same[int(same.sum(axis=1).argmax())]
    return (ends[best], scale) if best.sum() >= 2 else (none, scale)
