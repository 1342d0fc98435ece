"""What crosses the border to a decoding process: length-prefixed JSON and the bytes of arrays and pictures, no objects.

A decoder that a hostile file has taken over can answer wrongly; it cannot make the server run anything. Every length is
bounded before memory is taken for it. Not here: decoding (``decode_worker``), the processes (``decoders``).
"""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from internvl_detect.media.cuts import OWN_PX, Cut, CutPlan
from internvl_detect.media.provenance.found import Provenance
from internvl_detect.media.tiles import TileSettings
from internvl_detect.verdict import Evidence

MAX_HEADER = 8 * 2**20
MAX_BLOBS = 1024
MAX_BYTES = 1 << 30  # of all arrays and pictures of one answer
_LENGTH = struct.Struct(">I")


class BadMessage(Exception):
    """An answer that no sound decoder gives."""


@dataclass(frozen=True)
class Decoded:
    """A file as its decoding process gives it: tiles, facts and origin, small JPEGs to show (for a clip one a frame),
    and seconds by stage."""

    cut: Cut
    previews: list[bytes] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


def plan_to_json(plan: CutPlan) -> dict[str, Any]:
    """Plain values of a plan."""
    return {**vars(plan), "tiles": plan.tiles.to_dict()}


def plan_from_json(values: dict[str, Any]) -> CutPlan:
    """The way back from ``plan_to_json``."""
    return CutPlan(**{**values, "tiles": TileSettings.from_dict(values["tiles"])})


def send(stream: BinaryIO, header: dict[str, Any], blobs: list[bytes | memoryview] | None = None) -> None:
    """Write one message."""
    blobs = blobs or []
    raw = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode("utf-8")
    stream.write(_LENGTH.pack(len(raw)))
    stream.write(raw)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], list[bytearray]] | None:
    """The next message; None where the stream ended. Raises BadMessage for what is none."""
    start = stream.read(_LENGTH.size)
    if len(start) < _LENGTH.size:
        return None
    size = _LENGTH.unpack(start)[0]
    if size > MAX_HEADER:
        raise BadMessage(f"a header of {size} bytes")
    try:
        header = json.loads(_exactly(stream, size))
        sizes = header["blobs"]
        if not isinstance(sizes, list) or len(sizes) > MAX_BLOBS or not all(type(n) is int and n >= 0 for n in sizes):
            raise BadMessage("sizes that are none")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadMessage(f"{type(error).__name__} in a header") from None
    if sum(sizes) > MAX_BYTES:
        raise BadMessage(f"{sum(sizes)} bytes")
    return header, [_exactly(stream, n) for n in sizes]


def send_decoded(stream: BinaryIO, decoded: Decoded) -> None:
    """Write what was decoded."""
    cut = decoded.cut
    arrays = [np.ascontiguousarray(a) for a in (*cut.parts, *cut.whole, *cut.own)]
    header = {
        "facts": [cut.kind, cut.width, cut.height, cut.sha256, list(cut.notes)],
        "boxes": cut.boxes,
        "alone": cut.alone,
        "indices": cut.indices,
        "times_s": cut.times_s,
        "parts": len(cut.parts),
        "own": len(cut.own),
        "tile_boxes": cut.tile_boxes,
        "shapes": [a.shape for a in arrays],
        "evidence": [dataclasses.asdict(each) for each in cut.origin.evidence],
        "origin_notes": cut.origin.notes,
        "timings": decoded.timings,
    }
    send(stream, header, [*(memoryview(a).cast("B") for a in arrays), *decoded.previews])


def to_decoded(header: dict[str, Any], blobs: list[bytearray], tile_px: int) -> Decoded:
    """The way back. Raises BadMessage where shapes, types or counts are not those of a file cut for this model."""
    try:
        kind, width, height, sha256, notes = header["facts"]
        shapes = [tuple(int(n) for n in shape) for shape in header["shapes"]]
        arrays = [np.frombuffer(blob, np.uint8).reshape(shape) for blob, shape in zip(blobs, shapes, strict=False)]
        first, n_own = int(header["parts"]), int(header["own"])
        if n_own not in (0, first) or len(arrays) != len(shapes):
            raise BadMessage("counts that do not agree")
        arrays, own = arrays[: len(arrays) - n_own], arrays[len(arrays) - n_own :]
        if any(a.ndim != 4 or a.shape[1:] != (tile_px, tile_px, 3) for a in arrays) or not _are_pictures(own):
            raise BadMessage("arrays of a wrong shape")
        indices, times_s = tuple(map(int, header["indices"])), tuple(map(float, header["times_s"]))
        boxes, tile_boxes = _boxes(header["boxes"]), [_boxes(each) for each in header["tile_boxes"]]
        alone = [int(at) for at in header["alone"]]
        right = len(boxes) == len(alone) and 1 <= first <= len(arrays) and min(map(len, arrays)) > 0
        right = right and len(tile_boxes) == first
        right = right and all(0 < len(b) <= len(a) for b, a in zip(tile_boxes, arrays, strict=False))
        if kind == "image":
            right = right and first == 1 and all(0 <= at < len(arrays[0]) for at in alone)
        else:
            right = right and kind == "video" and len(indices) == len(times_s) == first
        if not right:
            raise BadMessage("counts that do not agree")
        cut = Cut(
            kind,
            int(width),
            int(height),
            str(sha256),
            tuple(map(str, notes)),
            arrays[:first],
            boxes,
            alone,
            arrays[first:],
            indices,
            times_s,
            tile_boxes,
            own,
            _origin(header),
        )
        timings = {str(k): float(v) for k, v in header["timings"].items()}
        return Decoded(cut, [bytes(b) for b in blobs[len(shapes) :]], timings)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadMessage(f"{type(error).__name__}: {error}") from None


def _boxes(given: Any) -> list[tuple[int, int, int, int]]:
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in given]


def _are_pictures(arrays: list[np.ndarray]) -> bool:
    """Whether they are what ``CutPlan.own`` allows: RGB, and not more pixels than that in all."""
    good = all(a.ndim == 3 and a.shape[2] == 3 and a.size > 0 for a in arrays)
    return good and sum(a.shape[0] * a.shape[1] for a in arrays) <= OWN_PX


def _origin(header: dict[str, Any]) -> Provenance:
    found = tuple(Evidence(str(e["source"]), str(e["summary"]), None, dict(e["details"])) for e in header["evidence"])
    decides = next((e for e in found if e.details.get("strength") == "decides"), None)
    return Provenance(found, decides, notes=tuple(map(str, header["origin_notes"])))


def _exactly(stream: BinaryIO, size: int) -> bytearray:
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        got = stream.readinto(view[have:])  # type: ignore[attr-defined]
        if not got:
            raise BadMessage("an answer that breaks off")
        have += got
    return data
