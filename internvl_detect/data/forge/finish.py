"""Post-processing that a photograph and its forged twin get alike, or the label can be read from it.

One draw holds resizing, blur, sharpening, noise and JPEG; it is applied to both twins. Not here: what is forged, nor
what training does to pictures while it reads them (``media.degrade``).

    finish = Finish.draw(np.random.default_rng(0))
    real, fake = finish.apply(photograph), finish.apply(forged)
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

Array = np.ndarray
KERNELS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.NEAREST)


@dataclass(frozen=True)
class Finish:
    """One draw of post-processing. The same draw goes to a photograph and to its forged twin.

    ``scale`` resizes with ``kernel`` (index into KERNELS); ``blur_px`` is a Gaussian's sigma; ``sharpen`` the percent
    of an unsharp mask; ``noise`` the standard deviation of Gaussian noise in grey levels, from ``noise_seed``;
    ``quality`` and ``subsampling`` (0: 4:4:4, 2: 4:2:0) are JPEG's.
    """

    scale: float = 1.0
    kernel: int = 1
    blur_px: float = 0.0
    sharpen: int = 0
    noise: float = 0.0
    noise_seed: int = 0
    quality: int = 90
    subsampling: int = 2

    @classmethod
    def draw(cls, rng: np.random.Generator, *, quality: tuple[int, int] = (75, 95)) -> Finish:
        """A draw: JPEG always; resize, blur, sharpening and noise each in a part of the cases only."""
        chance = rng.random(4)
        return cls(
            scale=float(rng.uniform(0.75, 1.25)) if chance[0] < 0.25 else 1.0,
            kernel=int(rng.integers(3)),
            blur_px=float(rng.uniform(0.3, 0.8)) if chance[1] < 0.1 else 0.0,
            sharpen=int(rng.integers(30, 120)) if chance[2] < 0.15 else 0,
            noise=float(rng.uniform(1, 4)) if chance[3] < 0.15 else 0.0,
            noise_seed=int(rng.integers(2**31)),
            quality=int(rng.integers(quality[0], quality[1] + 1)),
            subsampling=int(rng.choice([0, 2])),
        )

    def apply(self, rgb: Array, *, size: tuple[int, int] | None = None) -> bytes:
        """The JPEG file of the picture after this draw, cut at the middle to ``size`` (width, height) if given.

        Pillow alone does it, whatever else is installed: the same draw gives the same bytes everywhere.
        """
        picture = Image.fromarray(rgb)
        if self.scale != 1.0:
            to = (round(picture.width * self.scale), round(picture.height * self.scale))
            picture = picture.resize(to, KERNELS[self.kernel])
        if self.blur_px:
            picture = picture.filter(ImageFilter.GaussianBlur(self.blur_px))
        if self.sharpen:
            picture = picture.filter(ImageFilter.UnsharpMask(radius=1.0, percent=self.sharpen, threshold=0))
        if self.noise:
            noise = np.random.default_rng(self.noise_seed).normal(0, self.noise, (picture.height, picture.width, 3))
            picture = Image.fromarray(np.clip(np.rint(np.asarray(picture) + noise), 0, 255).astype(np.uint8))
        if size is not None and size != picture.size:
            x, y = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
            picture = picture.crop((x, y, x + size[0], y + size[1]))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=self.quality, subsampling=self.subsampling)
        return file.getvalue()

    def apply_mask(self, mask: Array) -> Array:
        """The boolean (H, W) mask at the finished picture's size: pixels of which half or more is from masked ones."""
        if self.scale == 1.0:
            return mask
        to = (round(mask.shape[1] * self.scale), round(mask.shape[0] * self.scale))
        resized = Image.fromarray(mask.astype(np.uint8) * 255).resize(
            to, Image.Resampling.BOX if self.scale < 1 else Image.Resampling.BILINEAR
        )
        return np.asarray(resized) >= 128

    def to_dict(self) -> dict[str, Any]:
        """The draw as plain values, for the row that it made."""
        return asdict(self)
