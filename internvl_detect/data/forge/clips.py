"""A clip with an edited stretch, beside its authentic twin: the same frames, the same encoder, one of them forged.

Between two times a region is edited and stays on the part of the scene that it was laid on, or whole frames are
rebuilt. Not here: sound (dropped), single pictures (``item``), the made-up sample clip (``data.samples.sample_clip``).

    record, mask = forge_clip("clip.mp4", "forged.mp4", "authentic.mp4", np.random.default_rng(0), method="removal")
    record["stretch_s"], record["frames"]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from internvl_detect.data.findings import show
from internvl_detect.data.forge.finish import Array
from internvl_detect.data.forge.item import Outcome, mask_png, open_donor, why, write
from internvl_detect.data.forge.methods import LEAST_PX, METHODS, Rebuild, forge
from internvl_detect.data.forge.opencv import need_cv2
from internvl_detect.data.forge.pasting import Piece, box_of, lay
from internvl_detect.data.forge.plan import Task, digest
from internvl_detect.data.forge.regions import KINDS
from internvl_detect.data.forge.traces import measure, visible
from internvl_detect.data.forge.words import words_of
from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import ConfigError, DataError, MediaError, OutputError
from internvl_detect.media.video import open_video

LIVE = ("resample", "rebuild", "resample_whole", "rebuild_whole")  # done to each frame; the rest is laid on each
MOST_FRAMES, MOST_BYTES, LEAST_FRAMES = 192, 256 * 2**20, 12  # of decoded frames that are held
CRF = (18, 29)


@dataclass(frozen=True)
class Frames:
    """Consecutive frames, uint8 (H, W, 3) with even sides, from the middle of a clip."""

    pictures: list[Array]
    fps: Fraction
    first: int


def forge_clip(
    path: str | Path,
    forged: str | Path,
    authentic: str | Path,
    rng: np.random.Generator,
    *,
    method: str,
    donor: Array | None = None,
    rebuild: Rebuild | None = None,
    kinds: Sequence[str] = KINDS,
    size_px: int = 512,
) -> tuple[dict[str, Any], Array | None]:
    """Write the forged clip and its twin (H.264, no sound), and give the record and the mask of the first edited frame.

    At most 192 frames from the middle of the clip are used, fewer where they are large. A quarter to a half of them
    is edited. The record's ``stretch_s`` is (from, to) in seconds, ``frames`` the truth of each edited frame: number,
    time_s, and shift_xy by which the mask has moved there. The mask is None where whole frames were changed.
    Raises MediaError for what is no clip of 12 frames or more, ConfigError and DataError as ``methods.forge`` does.
    """
    if method not in METHODS or method == "face_swap":
        raise ConfigError(f"{show(method)} in a clip", expected=", ".join(m for m in METHODS if m != "face_swap"))
    clip = read_frames(path, size_px)
    count = len(clip.pictures)
    length = max(4, round(count * rng.uniform(0.25, 0.5)))
    start = int(rng.integers(1, count - length))
    stop, crf, seed = start + length, int(rng.integers(*CRF)), int(rng.integers(2**31))
    options: dict[str, Any] = {"donor": donor, "rebuild": rebuild, "kinds": kinds}
    edited, mask, record = forge(clip.pictures[start], method, np.random.default_rng(seed), **options)
    whole = METHODS[method].whole
    shifts = [(0, 0)] * length if whole else track(clip.pictures[start:stop], mask)
    x0, y0, x1, y1 = box_of(mask)
    piece = Piece(edited[y0:y1, x0:x1], mask[y0:y1, x0:x1].astype(np.float32))
    pictures, truth = list(clip.pictures), []
    for i, (dx, dy) in enumerate(shifts, start):
        here = shifted(mask, dx, dy)
        if method not in LIVE:
            pictures[i] = lay(pictures[i], piece, y0 + dy, x0 + dx)[0]
        elif here.any():
            again = np.random.default_rng(seed)
            region = None if whole else here
            pictures[i] = forge(pictures[i], method, again, region=region, **options)[0] if i > start else edited
        truth.append({"frame": i, "time_s": round(float(i / clip.fps), 4), "shift_xy": [dx, dy]})
    encode(authentic, clip.pictures, clip.fps, crf)
    encode(forged, pictures, clip.fps, crf)
    stretch = [round(float(start / clip.fps), 3), round(float(stop / clip.fps), 3)]
    real, fake = (_frame(file, start + length // 2, clip.fps) for file in (authentic, forged))
    there = None if whole else shifted(mask, *shifts[length // 2])
    measured = measure(real, fake, there if there is None or there.any() else mask)
    record |= {"what": "clip", "stretch_s": stretch, "measured": measured, "traces": visible(measured, record)}
    about = {"fps": str(clip.fps), "frame_count": count, "first_source_frame": clip.first, "crf": crf}
    return {**record, **about, "frames": truth}, None if whole else mask


def read_frames(path: str | Path, size_px: int) -> Frames:
    """The middle of a clip, its longer side at most ``size_px``. Raises MediaError."""
    probe = open_video(path, frames=1)
    if not 1 <= probe.fps <= 240:
        raise MediaError(f"{path} has {probe.fps:.3g} frames a second", expected="1 to 240")
    count = min(probe.total_frames, MOST_FRAMES, MOST_BYTES // (3 * probe.width * probe.height))
    if count < LEAST_FRAMES:
        raise MediaError(f"{path} has too few frames, or too large ones", expected=f"{LEAST_FRAMES} frames or more")
    scale = min(1.0, size_px / max(probe.width, probe.height))
    to = (2 * round(probe.width * scale / 2), 2 * round(probe.height * scale / 2))
    if min(to) < LEAST_PX:
        raise MediaError(
            f"{path} would be {to[0]}x{to[1]} px here", expected=f"a shorter side of {LEAST_PX} px or more"
        )
    first = (probe.total_frames - count) // 2
    if count == probe.total_frames:
        clip = open_video(path, frames=count, method="middle")
    else:
        clip = open_video(path, frames=count, bound=(first / probe.fps, (first + count) / probe.fps))
    pictures = [np.asarray(frame.resize(to, Image.Resampling.BICUBIC)) for frame in clip.frames]
    return Frames(pictures, Fraction(probe.fps).limit_denominator(1001), first)


def track(pictures: Sequence[Array], mask: Array) -> list[tuple[int, int]]:
    """(dx, dy) in px of the scene around the mask in each frame against the first: the median way of its corners.

    Lucas and Kanade's flow from frame to frame; where nothing can be followed, the region stays.
    """
    cv2 = need_cv2("tracking")
    x0, y0, x1, y1 = box_of(mask, margin=12)
    near = np.zeros(mask.shape, np.uint8)
    near[y0:y1, x0:x1] = 255
    grey = cv2.cvtColor(np.ascontiguousarray(pictures[0]), cv2.COLOR_RGB2GRAY)
    points = cv2.goodFeaturesToTrack(grey, 60, 0.01, 4, mask=near)
    way, shifts = np.zeros(2), [(0, 0)]
    for picture in pictures[1:]:
        after = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        if points is not None and len(points) >= 4:
            moved, found, _ = cv2.calcOpticalFlowPyrLK(grey, after, points, None)
            kept = found.ravel() > 0
            if kept.sum() >= 4:
                way += np.median((moved - points).reshape(-1, 2)[kept], axis=0)
                points = np.ascontiguousarray(moved[kept])
        grey = after
        shifts.append((round(float(way[0])), round(float(way[1]))))
    return shifts


def shifted(mask: Array, dx: int, dy: int) -> Array:
    """The boolean (H, W) mask moved right by ``dx`` and down by ``dy``; what leaves the frame is lost."""
    h, w = mask.shape
    moved = np.zeros_like(mask)
    if abs(dx) < w and abs(dy) < h:
        moved[max(0, dy) : h + min(0, dy), max(0, dx) : w + min(0, dx)] = mask[
            max(0, -dy) : h + min(0, -dy), max(0, -dx) : w + min(0, -dx)
        ]
    return moved


def encode(path: str | Path, pictures: Sequence[Array], fps: Fraction, crf: int) -> None:
    """An H.264 clip in MP4; the same frames give the same bytes. Raises OutputError."""
    height, width = pictures[0].shape[:2]
    # More threads cut a picture otherwise; and x264's mbtree gives other bits in each run where there is AVX-512.
    options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
    with atomically(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _frame(path: str | Path, number: int, fps: Fraction) -> Array:
    bound = (float(number / fps), float((number + 1) / fps))
    return np.asarray(open_video(path, frames=1, bound=bound).frames[0])


def forge_clip_task(task: Task) -> Outcome:
    """One clip of the user's: both files written, one record. Raises OutputError and ConfigError only."""
    outcome = Outcome(task.source)
    try:
        outcome.records.append(_make(task))
    except (ConfigError, OutputError, ImportError):
        raise
    except Exception as error:  # noqa: BLE001 - one strange clip must not end a run of days
        outcome.problems.append(why(task.source.path, error))
    return outcome


def _make(task: Task) -> dict[str, Any]:
    source, settings = task.source, task.settings
    rng = np.random.default_rng(np.frombuffer(digest(settings.seed, source.name, 0), np.uint32))
    fit = [m for m in settings.methods if m != "face_swap" and (task.donors or not METHODS[m].donor)]
    if not fit:
        do = "give photographs too, or a method without a donor"
        raise DataError(f"no method for it in its split, {source.split}", do=do)
    method = str(rng.choice(fit))
    donor_source, donor = open_donor(task, rng) if METHODS[method].donor else (None, None)
    out, stem = Path(settings.out), f"{digest(source.name).hex()[:16]}_{method}"
    forged, authentic = f"video/{stem}.mp4", f"video/{digest(source.name).hex()[:16]}_authentic.mp4"
    options: dict[str, Any] = {"rebuild": settings.rebuild, "kinds": settings.kinds, "size_px": settings.size_px}
    record, mask = forge_clip(source.path, out / forged, out / authentic, rng, method=method, donor=donor, **options)
    files = {"kind": "video", "path": forged, "mask": "", "authentic": authentic}
    if mask is not None:
        files["mask"] = f"mask/{stem}.png"
        write(out / files["mask"], mask_png(mask))
    where = {"split": source.split, "root": source.root, "donor": donor_source.name if donor_source else ""}
    words = {"words": words_of(record, rng), "authentic_words": words_of({"method": "none", "what": "clip"}, rng)}
    return {"name": source.name, "number": 0, **files, **where, **record, **words}
