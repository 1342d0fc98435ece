"""Ways to forge a photograph: each gives the edited picture, the exact mask, and a record of what was done.

``METHODS`` says of each what its result is (label, domain tag) and what it needs. Pixels outside the mask are
untouched. The same picture, method and generator state give the same result. Not here: post-processing (``finish``),
sets of files (``folder``), networks: a ``rebuild`` function from (H, W, 3) uint8 to the same is passed in.

    edited, mask, record = forge(rgb, "splice", np.random.default_rng(0), donor=other)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_detect.data.forge.edits import EDITS, Edit, Job, Rebuild
from internvl_detect.data.forge.finish import Array
from internvl_detect.data.forge.pasting import box_of
from internvl_detect.data.forge.regions import KINDS, SIZES, size_of
from internvl_detect.data.forge.words import place_of
from internvl_detect.errors import ConfigError, DataError

LEAST_PX = 64  # shorter side of a picture that regions are found in
LEAST_CHANGE = 1.0  # mean change inside the mask, in grey levels: less is no forgery to be found
TRIES = 8


@dataclass(frozen=True)
class Method:
    """What a method makes (label, domain tag, classes of size; ``whole``: no region) and what it needs."""

    label: str
    domain_tag: str
    donor: bool = False
    rebuild: bool = False
    cv2: bool = False
    whole: bool = False
    sizes: tuple[str, ...] = tuple(SIZES)


METHODS = {
    "splice": Method("tampered", "photoshop", donor=True),
    "copy_move": Method("tampered", "photoshop", sizes=("small", "medium")),
    "removal": Method("tampered", "photoshop", cv2=True, sizes=("small", "medium")),
    "poisson": Method("tampered", "photoshop", donor=True, cv2=True),
    "resample": Method("tampered", "photoshop"),
    "rebuild": Method("tampered", "aigc_editing", rebuild=True),
    "decoder_removal": Method("tampered", "aigc_editing", rebuild=True, cv2=True, sizes=("small", "medium")),
    "face_swap": Method("deepfake", "deepfake", donor=True),
    "resample_whole": Method("ai_generated", "ai_generated", whole=True),
    "rebuild_whole": Method("ai_generated", "ai_generated", rebuild=True, whole=True),
}


def forge(
    rgb: Array,
    method: str,
    rng: np.random.Generator,
    *,
    donor: Array | None = None,
    rebuild: Rebuild | None = None,
    size: str | None = None,
    kinds: Sequence[str] = KINDS,
    region: Array | None = None,
) -> Edit:
    """A forged copy of the (H, W, 3) uint8 picture, the boolean (H, W) mask of the changed region, and the record.

    ``size`` is small, medium or large (drawn if None); ``kinds`` are those of ``regions``; ``region`` gives the place
    of an edit in place outright, whatever then changes there. The record holds method, label, domain_tag, share, size,
    place, box_xyxy and what the method adds. Raises ConfigError for an unknown method or a missing donor, rebuild or
    OpenCV; DataError for a picture under 64 px, for no aligned face, or when eight tries changed nothing to be seen.
    """
    if method not in METHODS:
        raise ConfigError(f"forging method {method!r}", expected=", ".join(METHODS))
    about = METHODS[method]
    for need, given in (("donor", donor), ("rebuild", rebuild)):
        if getattr(about, need) and given is None:
            what = "another photograph" if need == "donor" else "an autoencoder"
            raise ConfigError(f"{method} without {what}", expected=f"{need}=", do=f"pass {what}")
    for picture in (rgb, donor):
        if picture is not None and min(picture.shape[:2]) < LEAST_PX:
            h, w = picture.shape[:2]
            raise DataError(f"a picture of {w}x{h} px", expected=f"a shorter side of {LEAST_PX} px or more")
    for _ in range(1 if region is not None else TRIES):
        drawn = size or str(rng.choice(about.sizes))
        made = EDITS[method](Job(rgb, rng, donor, rebuild, drawn, kinds, region))
        if made is None:
            continue
        edited, mask, record = made
        if region is not None or (_changed(rgb, edited, mask) and (about.whole or _fits(method, mask))):
            return edited, mask, complete(method, mask, record)
    raise DataError(f"{method} changed nothing that could be seen", expected="a picture with some detail")


def _changed(rgb: Array, edited: Array, mask: Array) -> bool:
    return bool(mask.any()) and np.abs(edited[mask].astype(np.int16) - rgb[mask]).mean() >= LEAST_CHANGE


def _fits(method: str, mask: Array) -> bool:
    """Whether the region is of a size that words can name; a face may be larger."""
    return method == "face_swap" or 0.008 <= mask.mean() <= 0.45


def complete(method: str, mask: Array, record: dict[str, Any]) -> dict[str, Any]:
    """The record with what follows from the method's name and the mask; a whole picture has no place or box."""
    about = METHODS[method]
    facts: dict[str, Any] = {"method": method, "label": about.label, "domain_tag": about.domain_tag}
    share = float(mask.mean())
    facts["share"] = round(share, 4)
    if not about.whole:
        facts |= {"size": size_of(share), "place": place_of(mask), "box_xyxy": list(box_of(mask))}
    return facts | record
