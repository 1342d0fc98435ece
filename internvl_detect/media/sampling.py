"""Which frames of a clip to look at: the original code's two formulas, to the index.

Not a decoder; ``video.py`` is. The original infers with the formula ``"index"`` and trained clips with ``"middle"``.
"""

from __future__ import annotations

import math

from internvl_detect.errors import MediaError


def frame_indices(
    total_frames: int,
    num_segments: int,
    *,
    fps: float | None = None,
    bound: tuple[float, float] | None = None,
    method: str = "index",
) -> list[int]:
    """``num_segments`` frame numbers in 0..total_frames-1, not falling; short clips repeat frames.

    ``"index"`` (the original's ``get_index``): frames first..last are cut in n stretches of length s, and
    index i is int(first + s / 2 + round(s * i)). ``bound`` = (from, to) in seconds narrows first..last, given ``fps``.
    ``"middle"`` (the original's training): the middle frame of each of n stretches of whole frames; a clip with fewer
    frames than n gives each once, then its last.
    Raises ``MediaError`` for no frames, no segments, a bound that is not a stretch of the clip.
    """
    if total_frames < 1 or num_segments < 1:
        raise MediaError(f"{num_segments} frames asked of a clip with {total_frames}", expected="at least 1 of each")
    if method == "middle":
        if bound is not None:
            raise MediaError("a bound with the sampling method middle", expected="the method index, or no bound")
        return _middles(total_frames, num_segments)
    if method != "index":
        raise MediaError(f"sampling method {method!r}", expected="index or middle")
    first, last = 0, total_frames - 1
    if bound is not None:
        if not fps or not math.isfinite(fps) or fps <= 0:
            raise MediaError(f"a bound in seconds with a frame rate of {fps}", expected="a frame rate above 0")
        begin, end = bound
        if not (math.isfinite(begin) and math.isfinite(end) and 0 <= begin < end):
            raise MediaError(f"a bound of {begin}..{end} s", expected="0 <= from < to, in seconds")
        first, last = round(begin * fps), min(round(end * fps), last)
        if first > total_frames - 1:
            found = f"a bound that begins at {begin:g} s in a clip of {total_frames / fps:.2f} s"
            raise MediaError(found, expected="a bound inside the clip")
    step = (last - first) / num_segments
    return [int(first + step / 2 + round(step * i)) for i in range(num_segments)]


def _middles(total: int, segments: int) -> list[int]:
    if total < segments:
        return list(range(total)) + [total - 1] * (segments - total)
    edges = [int(i * (total / segments)) for i in range(segments)] + [total]  # in this order, as numpy's linspace
    return [(edges[i] + edges[i + 1] - 1) // 2 for i in range(segments)]
