"""Linear classifiers on measured statistics: spectrum, error level, noise residual. Fitted in seconds on a CPU.

Each takes numbers of one picture, standardises them over the training pictures and fits a ridge or logistic
classifier of scikit-learn; the score is made a probability by Platt's scaling on held-out folds (Platt 1999). Sources:
spectra of generated pictures (Frank et al., ICML 2020; Durall et al., CVPR 2020), error level analysis (Krawetz 2007),
co-occurrences of residuals (Fridrich and Kodovsky, "Rich models", 2012; far fewer here).

    spectral = Spectral()
    spectral.fit(pictures, fake)
"""

from __future__ import annotations

import io
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageChops

from internvl_detect.errors import ConfigError, DataError
from internvl_detect.evaluate.baselines import both_classes, platt, sigmoid

Array = np.ndarray
CROP_PX = 256
_RINGS = 48
_FOLDS = 5
_CELL = 8  # px of a map's cell


class _Linear:
    """What the three share: from numbers of a picture to a calibrated score."""

    name = ""
    fits = True
    ridge = False

    def __init__(self) -> None:
        self._model: Any = None
        self._scale = (1.0, 0.0)

    def features(self, rgb: Array) -> Array:
        """(F,) float64 numbers of one uint8 (H, W, 3) picture."""
        raise NotImplementedError

    def fit(
        self, pictures: Iterable[PILImage.Image], fake: Sequence[int], groups: Sequence[Hashable] | None = None
    ) -> None:
        """Fit on the pictures, held in memory as numbers only. Raises DataError, ConfigError."""
        y = both_classes(fake, self.name)
        linear, pipeline, scaler, folds = _sklearn()
        x = np.stack([self.features(_array(picture)) for picture in pictures])
        model = linear.RidgeClassifier(alpha=10.0) if self.ridge else linear.LogisticRegression(C=0.1, max_iter=2000)
        self._model = pipeline.make_pipeline(scaler.StandardScaler(), model)
        group = np.arange(len(y)) if groups is None else np.unique(np.array(groups, str), return_inverse=True)[1]
        fewest = min(len(np.unique(group[y == label])) for label in (0, 1))
        held = None
        if fewest >= 2:  # a twin held out alone would be scored by a model that saw the other with the other label
            by_group = folds.StratifiedGroupKFold(min(_FOLDS, fewest), shuffle=True, random_state=0)
            parts = list(by_group.split(x, y, group))
            if all(len(set(y[rest].tolist())) == 2 for rest, _ in parts):
                held = folds.cross_val_predict(self._model, x, y, cv=parts, method="decision_function")
        self._model.fit(x, y)
        self._scale = platt(self._model.decision_function(x) if held is None else held, y)

    def scores(self, pictures: Sequence[PILImage.Image]) -> list[float]:
        """Calibrated P(fake). Raises DataError before ``fit``."""
        if self._model is None:
            raise DataError(f"{self.name} was not fitted", do="call fit first")
        if not pictures:
            return []
        x = np.stack([self.features(_array(picture)) for picture in pictures])
        scale, shift = self._scale
        return sigmoid(scale * self._model.decision_function(x) + shift).tolist()

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[Array] | None:
        """None, where no map is drawn."""


class Spectral(_Linear):
    """Ridge classifier on the log power spectrum by ring and the mean log DCT of 8x8 blocks, of the middle's pixels."""

    name, ridge = "spectral ridge", True

    def features(self, rgb: Array) -> Array:
        """48 rings of the mean log power, and 64 DCT coefficients, each without its mean."""
        grey = _middle(rgb).astype(np.float64).mean(axis=2)
        window = np.hanning(CROP_PX)
        power = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * np.outer(window, window)))) ** 2
        y, x = np.indices(power.shape) - CROP_PX // 2
        ring = np.minimum((np.hypot(x, y) / (CROP_PX / 2) * _RINGS).astype(int), _RINGS)
        log = np.log(power + 1e-3)
        radial = np.bincount(ring.ravel(), log.ravel()) / np.maximum(1, np.bincount(ring.ravel()))
        blocks = grey.reshape(CROP_PX // 8, 8, CROP_PX // 8, 8).transpose(0, 2, 1, 3)
        dct = np.log(np.abs(_DCT @ blocks @ _DCT.T) + 0.1).mean(axis=(0, 1)).ravel()
        return np.concatenate([radial[:_RINGS] - radial[:_RINGS].mean(), dct - dct.mean()])


class ErrorLevel(_Linear):
    """Logistic regression on how much a picture changes when saved as JPEG 90 and 75; the map is that change."""

    name = "ELA"

    def features(self, rgb: Array) -> Array:
        """Mean, spread and high quantiles of the change, of pixels and of 8x8 cells."""
        found = []
        for quality in (90, 75):
            level = error_levels(rgb, quality)
            cells = _cells(level)
            quantiles = np.quantile(cells, (0.1, 0.5, 0.9, 0.99))
            found += [np.log1p(level.mean()), np.log1p(level.std()), np.log1p(cells.std()), *np.log1p(quantiles)]
            found.append(float(cells.std() / (cells.mean() + 1e-6)))
        return np.array(found)

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[Array]:
        """The change at quality 90 by cells, as the share of cells that change less."""
        return [_grown(_rank(_cells(error_levels(_array(p), 90))), p.size) for p in pictures]


class Noise(_Linear):
    """Logistic regression on co-occurrences of the truncated second-order residual; the map is how odd a place's
    noise is."""

    name = "noise residual"

    def features(self, rgb: Array) -> Array:
        """Logs of 63 sign-symmetric triples along rows and columns, and of the residual's strength by channel."""
        grey = _middle(rgb).astype(np.int32)[..., 1]
        counts = np.zeros(125)
        for plane in (grey, grey.T):
            residual = np.clip(np.rint((2 * plane[:, 1:-1] - plane[:, :-2] - plane[:, 2:]) / 2), -2, 2).astype(int) + 2
            triples = residual[:, :-2] * 25 + residual[:, 1:-1] * 5 + residual[:, 2:]
            counts += np.bincount(triples.ravel(), minlength=125)
        both = (counts + counts[::-1])[:63]  # a triple and its negative say the same
        strength = [np.log(residual_of(_middle(rgb)[..., c]).std() + 1e-2) for c in range(3)]
        return np.concatenate([np.log((both + 1) / counts.sum()), strength])

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[Array]:
        """How far a cell's log noise lies from the picture's median, in robust deviations, 4 and more being 1."""
        found = []
        for picture in pictures:
            strength = np.log(_cells(np.abs(residual_of(_array(picture)[..., 1]))) + 0.05)
            off = np.abs(strength - np.median(strength))
            found.append(_grown(np.clip(off / (1.4826 * np.median(off) + 1e-3) / 4, 0, 1), picture.size))
        return found


def error_levels(rgb: Array, quality: int) -> Array:
    """float64 (H, W): the mean absolute change of each pixel's channels after a JPEG of that quality (4:4:4)."""
    picture, buffer = PILImage.fromarray(rgb), io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    with PILImage.open(io.BytesIO(buffer.getvalue())) as again:
        return np.asarray(ImageChops.difference(picture, again.convert("RGB")), np.float64).mean(axis=2)


def residual_of(plane: Array) -> Array:
    """float64 (H, W): the plane less the prediction from its eight neighbours (Ker and Boehme's 3x3 kernel)."""
    p = np.pad(plane.astype(np.float64), 1, mode="symmetric")
    near = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
    corners = p[:-2, :-2] + p[:-2, 2:] + p[2:, :-2] + p[2:, 2:]
    return p[1:-1, 1:-1] - near / 2 + corners / 4


def _middle(rgb: Array) -> Array:
    """The middle CROP_PX square, native pixels; mirrored as often as needed where the picture is smaller."""
    need = [max(0, CROP_PX - side) for side in rgb.shape[:2]]
    if any(need):
        rgb = np.pad(rgb, [(0, need[0]), (0, need[1]), (0, 0)], mode="symmetric")
    y, x = ((side - CROP_PX) // 2 for side in rgb.shape[:2])
    return rgb[y : y + CROP_PX, x : x + CROP_PX]


def _cells(values: Array) -> Array:
    """Means of 8x8 cells; the last row and column of cells may be of fewer pixels."""
    pad = [(0, -side % _CELL) for side in values.shape]
    v = np.pad(values, pad, mode="edge")
    return v.reshape(v.shape[0] // _CELL, _CELL, -1, _CELL).mean(axis=(1, 3))


def _rank(values: Array) -> Array:
    order = np.sort(values, axis=None)
    return (np.searchsorted(order, values, "left") / max(1, values.size - 1)).clip(0, 1)


def _grown(cells: Array, size: tuple[int, int]) -> Array:
    """Cells as float32 (H, W) of a (width, height) picture."""
    grown = np.kron(cells.astype(np.float32), np.ones((_CELL, _CELL), np.float32))
    return grown[: size[1], : size[0]]


def _array(picture: PILImage.Image) -> Array:
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _sklearn() -> tuple[Any, Any, Any, Any]:
    try:
        from sklearn import linear_model, model_selection, pipeline, preprocessing
    except ImportError:
        do = "pip install 'internvl2-8bdetect[eval]'"
        raise ConfigError("this baseline needs scikit-learn, which is not installed", do=do) from None
    return linear_model, pipeline, preprocessing, model_selection


_N = np.arange(8)
_DCT = np.sqrt(2 / 8) * np.cos(np.pi * (2 * _N[None] + 1) * _N[:, None] / 16) * np.where(_N == 0, 0.5**0.5, 1)[:, None]
