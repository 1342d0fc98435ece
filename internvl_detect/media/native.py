"""Which windows the native tiling takes from a picture, and their pixels: no resampling anywhere.

The windows that cover a picture start at multiples of the tile side, so that a JPEG's 8 px blocks lie the same way in
each of them; the last of a row or column is moved back to end at the picture's edge. When there are more windows than
may be used, they are chosen far from each other (coverage) and where something is drawn (texture). Not a detector of
anything: a flat sky is simply a poor place to look for traces.
"""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage

Window = tuple[int, int, int, int]
FLOOR = 0.1  # what a window without texture still counts, so that distance alone can win
JITTER = 0.05  # how much the seed may change a window's worth


def covering_grid(width: int, height: int, side: int) -> tuple[int, int]:
    """(columns, rows) of windows of ``side`` pixels that cover the whole picture."""
    return -(-width // side), -(-height // side)


def choose_windows(rgb: PILImage.Image, side: int, most: int, seed: int) -> list[Window]:
    """Up to ``most`` windows (x0, y0, x1, y1) in picture pixels, row by row; all of them when they are few enough.

    A window is ``side`` pixels wide and high unless the picture is smaller. Same picture and seed: same windows.
    """
    columns, rows = covering_grid(*rgb.size, side)
    windows = [
        (x0, y0, min(x0 + side, rgb.width), min(y0 + side, rgb.height))
        for y0 in _starts(rgb.height, side, rows)
        for x0 in _starts(rgb.width, side, columns)
    ]
    if len(windows) <= most:
        return windows
    worth = _texture(rgb, windows)
    worth = FLOOR + worth / max(float(worth.max()), 1e-9)
    worth *= 1 + JITTER * np.random.default_rng(seed).random(len(windows))
    centres = np.array([((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in windows])
    chosen = [int(worth.argmax())]
    away = np.full(len(windows), np.inf)
    while len(chosen) < most:
        away = np.minimum(away, np.hypot(*(centres - centres[chosen[-1]]).T))
        chosen.append(int((away * worth).argmax()))  # a chosen window is 0 away from itself
    return [windows[i] for i in sorted(chosen)]


def cut_window(rgb: PILImage.Image, window: Window, side: int) -> np.ndarray:
    """uint8 (side, side, 3): the window's own pixels; where it is smaller, their reflection right of and below them."""
    pixels = np.asarray(rgb.crop(window))
    high, wide = pixels.shape[:2]
    if (high, wide) == (side, side):
        return pixels
    return pixels[_reflected(high, side)][:, _reflected(wide, side)]


def _starts(length: int, side: int, count: int) -> list[int]:
    return [max(0, min(i * side, length - side)) for i in range(count)]


def _reflected(length: int, side: int) -> np.ndarray:
    """Indices 0, 1, .., length-1, length-2, .., 1, 0, 1, .. up to ``side`` of them."""
    period = max(1, 2 * (length - 1))
    there = np.arange(side) % period
    return np.minimum(there, period - there)


def _texture(rgb: PILImage.Image, windows: list[Window]) -> np.ndarray:
    """Mean step between neighbouring grey values of every second row in each window: cheap, and 0 for a flat one.

    The square root keeps one very busy window from drawing all others to its side.
    """
    found = np.empty(len(windows))
    for i, window in enumerate(windows):
        grey = np.asarray(rgb.crop(window).convert("L"))[::2].astype(np.int16)
        found[i] = np.abs(np.diff(grey, axis=1)).mean() if grey.shape[1] > 1 else 0.0
    return np.sqrt(found)
