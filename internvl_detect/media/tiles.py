"""Cut a picture into the square tiles that InternVL2 sees, and keep where each tile came from.

Two ways. ``dynamic`` is the reference's: one bicubic resize of the whole picture to the grid whose aspect ratio fits
best, cut into tiles, plus a thumbnail; it is bit-equal to the original code. ``native`` (in ``native.py``) cuts at the
picture's own resolution, because a resize erases the traces that forensics lives on. Both give the same array shape.

Not here: decoding (``image.py``), turning tiles into tokens (``model.prompts``).

    tiles = cut_tiles(open_image("a.jpg").rgb, TileSettings(max_tiles=12))
    tiles.normalised()  # float32 (N, 3, 448, 448)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image as PILImage

from internvl_detect.errors import ConfigError
from internvl_detect.media.native import choose_windows, covering_grid, cut_window

MODES = ("dynamic", "native")
MEAN = (0.485, 0.456, 0.406)  # ImageNet, as the reference normalises
STD = (0.229, 0.224, 0.225)
MOST_TILES = 256


@dataclass(frozen=True)
class TileSettings:
    """How to cut. ``tile_px`` is the side of a tile in pixels; ``min_tiles``..``max_tiles`` counts tiles without the
    thumbnail, which comes on top when there is more than one tile. The original infers with 12 and trains with 6."""

    mode: str = "dynamic"
    tile_px: int = 448
    min_tiles: int = 1
    max_tiles: int = 6
    thumbnail: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"tile mode {self.mode!r}", expected=" or ".join(MODES))
        for name in ("tile_px", "min_tiles", "max_tiles"):
            if not isinstance(getattr(self, name), int) or isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} {getattr(self, name)!r}", expected="a whole number")
        if not isinstance(self.thumbnail, bool):
            raise ConfigError(f"thumbnail {self.thumbnail!r}", expected="true or false")
        if not 14 <= self.tile_px <= 4096:
            raise ConfigError(f"tile_px {self.tile_px}", expected="14 to 4096")
        if not 1 <= self.min_tiles <= self.max_tiles <= MOST_TILES:
            found = f"min_tiles {self.min_tiles} and max_tiles {self.max_tiles}"
            raise ConfigError(found, expected=f"1 <= min_tiles <= max_tiles <= {MOST_TILES}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TileSettings:
        """The way back from ``to_dict``. Raises ``ConfigError`` for a name it does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            names = ", ".join(f.name for f in fields(cls))
            raise ConfigError(f"tile settings with {', '.join(unknown)}", expected=f"only {names}")
        return cls(**values)


@dataclass(frozen=True)
class Tiles:
    """The tiles of one picture.

    ``pixels`` is uint8 (N, tile_px, tile_px, 3). ``boxes_xyxy[i]`` is the part of the picture that tile i shows, in
    picture pixels (edges, so a 4 px wide picture ends at 4.0). ``real_wh[i]`` is how many of the tile's pixels, from
    its top left corner, show that part; the rest is reflected padding (native tiles of small pictures only).
    ``grid`` is (columns, rows) of the grid the tiles were taken from, ``picture_wh`` the picture's size.
    """

    pixels: np.ndarray
    boxes_xyxy: list[tuple[float, float, float, float]]
    is_thumbnail: list[bool]
    grid: tuple[int, int]
    picture_wh: tuple[int, int]
    real_wh: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.pixels)

    def normalised(self) -> np.ndarray:
        """float32 (N, 3, tile_px, tile_px): (value / 255 - mean) / std, every step in float32.

        That is torchvision's ToTensor and Normalize, which the reference uses, to the bit.
        """
        return normalise(self.pixels)

    def to_picture(self, tile_index: int, x: float, y: float) -> tuple[float, float]:
        """Point (x, y) of a tile, in tile pixels, as a point of the picture. In padding it lies outside the picture."""
        x0, y0, x1, y1 = self.boxes_xyxy[tile_index]
        wide, high = self.real_wh[tile_index]
        return x0 + x * (x1 - x0) / wide, y0 + y * (y1 - y0) / high

    def to_tile(self, tile_index: int, x: float, y: float) -> tuple[float, float]:
        """Point (x, y) of the picture in the pixels of one tile; outside 0..tile_px when the tile does not show it."""
        x0, y0, x1, y1 = self.boxes_xyxy[tile_index]
        wide, high = self.real_wh[tile_index]
        return (x - x0) * wide / (x1 - x0), (y - y0) * high / (y1 - y0)

    def from_picture(self, x: float, y: float) -> list[tuple[int, float, float]]:
        """(tile index, x, y in that tile) for every tile, the thumbnail included, that shows this picture point."""
        inside = [i for i, (a, b, c, d) in enumerate(self.boxes_xyxy) if a <= x <= c and b <= y <= d]
        return [(i, *self.to_tile(i, x, y)) for i in inside]


def cut_tiles(rgb: PILImage.Image, settings: TileSettings | None = None, *, seed: int = 0) -> Tiles:
    """The tiles of an upright RGB picture.

    ``seed`` matters in native mode alone, where a picture can hold more windows than ``max_tiles``: same seed, same
    tiles. Row by row, left to right, thumbnail last.
    """
    settings = settings or TileSettings()
    if rgb.mode != "RGB":
        rgb = rgb.convert("RGB")
    return _native(rgb, settings, seed) if settings.mode == "native" else _dynamic(rgb, settings)


def best_grid(width: int, height: int, settings: TileSettings) -> tuple[int, int]:
    """(columns, rows) of the dynamic grid: the reference's rule.

    The grid nearest in aspect ratio wins; among grids equally near, the last one (they are sorted by tile count) for
    which the picture has more than half as many pixels as the grid.
    """
    aspect, area = width / height, width * height
    best, nearest = (1, 1), float("inf")
    for columns, rows in _grids(settings.min_tiles, settings.max_tiles):
        away = abs(aspect - columns / rows)
        if away < nearest:
            best, nearest = (columns, rows), away
        elif away == nearest and area > 0.5 * settings.tile_px * settings.tile_px * columns * rows:
            best = (columns, rows)
    return best


def count_tiles(width: int, height: int, settings: TileSettings) -> int:
    """How many tiles ``cut_tiles`` gives for a picture of this size, thumbnail included, without looking at it."""
    if settings.mode == "native":
        columns, rows = covering_grid(width, height, settings.tile_px)
        count = min(columns * rows, settings.max_tiles)
    else:
        columns, rows = best_grid(width, height, settings)
        count = columns * rows
    return count + (settings.thumbnail and columns * rows > 1)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) by ImageNet statistics; see ``Tiles.normalised``."""
    count, high, wide, _ = pixels.shape
    out = np.empty((count, 3, high, wide), np.float32)
    for i in range(count):  # plane by plane, so that each stays in the processor's cache over the four passes
        for channel in range(3):
            plane = out[i, channel]
            plane[...] = pixels[i, :, :, channel]
            plane /= np.float32(255)
            plane -= np.float32(MEAN[channel])
            plane /= np.float32(STD[channel])
    return out


@lru_cache(maxsize=64)
def _grids(least: int, most: int) -> tuple[tuple[int, int], ...]:
    sides = range(1, most + 1)
    grids = [(c, r) for c in sides for r in sides if least <= c * r <= most]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def _thumbnail(rgb: PILImage.Image, side: int) -> np.ndarray:
    return np.asarray(rgb.resize((side, side), PILImage.Resampling.BICUBIC))


def _dynamic(rgb: PILImage.Image, settings: TileSettings) -> Tiles:
    (width, height), side = rgb.size, settings.tile_px
    columns, rows = best_grid(width, height, settings)
    whole = np.asarray(rgb.resize((columns * side, rows * side), PILImage.Resampling.BICUBIC))
    count = columns * rows
    extra = settings.thumbnail and count > 1
    pixels = np.empty((count + extra, side, side, 3), np.uint8)
    blocks = whole.reshape(rows, side, columns, side, 3).swapaxes(1, 2)  # (rows, columns, side, side, 3)
    pixels[:count].reshape(rows, columns, side, side, 3)[...] = blocks
    boxes = [
        (c * width / columns, r * height / rows, (c + 1) * width / columns, (r + 1) * height / rows)
        for r in range(rows)
        for c in range(columns)
    ]
    if extra:
        pixels[count] = _thumbnail(rgb, side)
        boxes.append((0.0, 0.0, float(width), float(height)))
    flags = [False] * count + [True] * extra
    return Tiles(pixels, boxes, flags, (columns, rows), (width, height), [(side, side)] * len(boxes))


def _native(rgb: PILImage.Image, settings: TileSettings, seed: int) -> Tiles:
    (width, height), side = rgb.size, settings.tile_px
    grid = covering_grid(width, height, side)
    windows = choose_windows(rgb, side, settings.max_tiles, seed)
    extra = settings.thumbnail and grid[0] * grid[1] > 1
    pixels = np.empty((len(windows) + extra, side, side, 3), np.uint8)
    boxes: list[tuple[float, float, float, float]] = []
    real: list[tuple[int, int]] = []
    for i, (x0, y0, x1, y1) in enumerate(windows):
        pixels[i] = cut_window(rgb, (x0, y0, x1, y1), side)
        boxes.append((float(x0), float(y0), float(x1), float(y1)))
        real.append((x1 - x0, y1 - y0))
    if extra:
        pixels[-1] = _thumbnail(rgb, side)
        boxes.append((0.0, 0.0, float(width), float(height)))
        real.append((side, side))
    return Tiles(pixels, boxes, [False] * len(windows) + [True] * extra, grid, (width, height), real)
