"""One file as a model will see it: opened, cut into tiles, its pixels let go. What a decoding process hands on.

    cut = cut_media("photo.jpg", CutPlan(TileSettings(max_tiles=4)))
    cut.parts[0].shape  # (tiles, side, side, 3)

Not here: decoding (``image``, ``video``), how to cut (``tiles``), prompts and judging.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as PILImage

from internvl_detect.media.image import Image, Limits, open_image
from internvl_detect.media.provenance.found import Provenance
from internvl_detect.media.source import HEAD, Source, sniff, sniff_file
from internvl_detect.media.tiles import Tiles, TileSettings, cut_tiles
from internvl_detect.media.video import Clip, VideoLimits, open_video

Box = tuple[int, int, int, int]
OWN_PX = 24_000_000  # most pixels of a copy that another process hands on


@dataclass(frozen=True)
class Shown:
    """A picture, frame or tile that a question is about, and how it is to be cut; ``tiles`` are cut at first need."""

    rgb: PILImage.Image
    settings: TileSettings

    @cached_property
    def tiles(self) -> Tiles:
        return cut_tiles(self.rgb, self.settings)

    @property
    def boxes(self) -> list[Box]:
        """What its tiles show of the picture, in whole pixels; no thumbnail."""
        return boxes_of(self.tiles)


@dataclass(frozen=True)
class Precut:
    """The same where the tiles are all there is: uint8 (N, side, side, 3), and their boxes."""

    pixels: np.ndarray
    boxes: list[Box] = field(default_factory=list)

    @property
    def tiles(self) -> Precut:
        return self


@dataclass(frozen=True)
class CutPlan:
    """What to cut. ``frames`` of a clip are looked at, each in up to ``frame_tiles`` tiles; ``regions`` names the tiles
    of a picture that are asked about alone; ``whole`` adds a clip's frames as one tile each, for one prompt of all;
    ``own`` adds the pictures themselves, for a domain tagger: up to ``OWN_PX`` pixels in all, and smaller beyond."""

    tiles: TileSettings = field(default_factory=TileSettings)
    frame_tiles: int = 1
    frames: int = 8
    regions: bool = False
    whole: bool = False
    own: bool = False


@dataclass(frozen=True)
class Cut:
    """The facts of a file and its tiles, uint8 (N, side, side, 3) each.

    ``parts`` has one array for a picture, and one for each different frame of a clip. ``indices`` and ``times_s`` are
    those frames' numbers and seconds. ``boxes`` are the parts of a picture that are asked about alone, in picture
    pixels (left, top, right, bottom); ``alone`` their tiles' numbers. ``whole`` are the arrays of a clip's one prompt.
    ``tile_boxes`` are what the tiles of each of ``parts`` show, no thumbnail; ``own`` the pictures themselves, one a
    part, uint8 (H, W, 3). ``origin`` is what the file says of itself, where that was asked for.
    """

    kind: Literal["image", "video"]
    width: int
    height: int
    sha256: str
    notes: tuple[str, ...]
    parts: list[np.ndarray]
    boxes: list[Box] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    whole: list[np.ndarray] = field(default_factory=list)
    indices: tuple[int, ...] = ()
    times_s: tuple[float, ...] = ()
    tile_boxes: list[list[Box]] = field(default_factory=list)
    own: list[np.ndarray] = field(default_factory=list)
    origin: Provenance = field(default_factory=Provenance)


def open_media(
    source: Source,
    *,
    frames: int = 8,
    limits: Limits | None = None,
    video_limits: VideoLimits | None = None,
    keep_bytes: bool = False,
) -> Image | Clip:
    """Open a picture or a clip, told apart by content; ``keep_bytes`` as for ``open_image``.

    Raises MediaError for what is neither, or cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        kind = sniff(bytes(source[:HEAD]))
    elif isinstance(source, str | Path):
        kind = sniff_file(source)
    else:
        kind = sniff(source.read(HEAD))
        source.seek(0)
    if kind == "video":
        return open_video(source, frames=frames, limits=video_limits)
    return open_image(source, limits=limits, keep_bytes=keep_bytes)  # says what it is when it is neither


def cut_media(opened: Image | Clip, plan: CutPlan) -> Cut:
    """The tiles of an opened file; the same for the same file and plan."""
    cut = _cut_picture(opened, plan) if isinstance(opened, Image) else _cut_clip(opened, plan)
    if not plan.own:
        return cut
    pictures, notes = own_pictures(opened), cut.notes
    scale = min(1.0, (OWN_PX / sum(p.width * p.height for p in pictures)) ** 0.5)
    if scale < 1:
        sizes = [(max(1, int(p.width * scale)), max(1, int(p.height * scale))) for p in pictures]
        pictures = [p.resize(s, PILImage.Resampling.LANCZOS) for p, s in zip(pictures, sizes, strict=True)]
        notes = (*notes, f"the domain tagger looked at it in {scale:.0%} of its size")
    return dataclasses.replace(cut, notes=notes, own=[np.asarray(p) for p in pictures])


def own_pictures(media: Image | Clip | Cut) -> list[PILImage.Image]:
    """The picture, or each different frame of a clip, in its own pixels; of a Cut what was handed on of them."""
    if isinstance(media, Cut):
        return [PILImage.fromarray(pixels) for pixels in media.own]
    return [media.rgb] if isinstance(media, Image) else [frame for _, _, frame in different_frames(media)]


def boxes_of(tiles: Tiles) -> list[Box]:
    """What the tiles show of the picture, in whole pixels; no thumbnail."""
    kept = [box for box, whole in zip(tiles.boxes_xyxy, tiles.is_thumbnail, strict=True) if not whole]
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in kept]


def _cut_picture(image: Image, plan: CutPlan) -> Cut:
    tiles = cut_tiles(image.rgb, plan.tiles)
    alone = [i for i in range(len(tiles)) if len(tiles) == 1 or not tiles.is_thumbnail[i]] if plan.regions else []
    boxes = []
    for at in alone:
        left, top, right, bottom = tiles.boxes_xyxy[at]
        boxes.append((round(left), round(top), round(right), round(bottom)))
    facts = (image.width, image.height, image.sha256, image.notes)
    return Cut("image", *facts, [tiles.pixels], boxes=boxes, alone=alone, tile_boxes=[boxes_of(tiles)])


def _cut_clip(clip: Clip, plan: CutPlan) -> Cut:
    one, single = of_a_frame(plan.tiles, plan.frame_tiles), one_tile(plan.tiles)
    frames = different_frames(clip)
    tiles = [cut_tiles(frame, one) for _, _, frame in frames]
    return Cut(
        "video",
        clip.width,
        clip.height,
        clip.sha256,
        clip.notes,
        [each.pixels for each in tiles],
        whole=[cut_tiles(frame, single).pixels for frame in clip.frames] if plan.whole else [],
        indices=tuple(index for index, _, _ in frames),
        times_s=tuple(time for _, time, _ in frames),
        tile_boxes=[boxes_of(each) for each in tiles],
    )


def of_a_frame(tiles: TileSettings, most: int) -> TileSettings:
    """How a frame that is asked about alone is cut: in up to ``most`` tiles."""
    return dataclasses.replace(tiles, min_tiles=1, max_tiles=most)


def one_tile(tiles: TileSettings) -> TileSettings:
    """How a picture is cut that is to be one tile, whatever its shape."""
    return dataclasses.replace(tiles, mode="dynamic", min_tiles=1, max_tiles=1, thumbnail=False)


def different_frames(clip: Clip) -> list[tuple[int, float, PILImage.Image]]:
    """(number, seconds, picture) of each frame once: a short clip has fewer than were asked for."""
    found = {i: (i, t, f) for i, t, f in zip(clip.indices, clip.times_s, clip.frames, strict=True)}
    return list(found.values())
