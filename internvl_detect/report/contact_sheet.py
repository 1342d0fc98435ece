"""A contact sheet: some pictures of every dataset and class, small, with the outline of what their masks mark.

    cells = contact_sheet(found, root, seed=0)

The sample follows from the seed and the files alone. Not here: the page (``survey``), judging.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageChops, ImageFilter

from internvl_detect.data.survey.facts import FileFacts
from internvl_detect.data.survey.measure import Places
from internvl_detect.data.survey.table import FINE
from internvl_detect.data.survey.whole import Survey
from internvl_detect.errors import IvdetectError
from internvl_detect.media.image import open_image
from internvl_detect.media.pixels import least_marked
from internvl_detect.media.video import open_video
from internvl_detect.report.html import thumbnail
from internvl_detect.report.words import visible

EACH = 8
MOST_CELLS = 40
_SIDE_PX = 144
_RED = (220, 38, 38)


@dataclass(frozen=True)
class Cell:
    """One dataset and class: how many files it has, and (visible file name, JPEG as a data URI) of some."""

    dataset: str
    label: str
    files: int
    pictures: list[tuple[str, str]]


def contact_sheet(found: Survey, root: str | Path, *, seed: int = 0, each: int = EACH) -> list[Cell]:
    """At most ``each`` files that could be opened of each dataset and class, for the ``MOST_CELLS`` largest."""
    table, places = found.table, Places(root)
    usable = found.usable() & (table["state"] == FINE)
    pairs = np.stack([table["dataset"], table["label"]], axis=1)[usable]
    where = np.flatnonzero(usable)
    kinds, of_kind, sizes = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    of_kind = of_kind.reshape(-1)
    cells = []
    for at in np.argsort(-sizes, kind="stable")[:MOST_CELLS].tolist():
        files = where[of_kind == at]
        rng = np.random.default_rng([seed, at])
        chosen = np.sort(rng.choice(files, min(each, len(files)), replace=False)).tolist()
        made = ((visible(table.path(i), 200), _small(found, places, i)) for i in chosen)
        dataset, label = (table.texts(c)[n] for c, n in zip(("dataset", "label"), kinds[at].tolist(), strict=True))
        cells.append(Cell(visible(dataset, 80), label, int(sizes[at]), [(name, uri) for name, uri in made if uri]))
    return sorted(cells, key=lambda cell: (cell.dataset, cell.label != "real", cell.label))


def _small(found: Survey, places: Places, index: int) -> str:
    """A data URI; "" for a file that can no longer be read."""
    table = found.table
    path, mask = places.find(table.path(index), "image"), table.mask(index)
    if isinstance(path, FileFacts):
        return ""
    try:
        if table.number("video", index):
            picture = open_video(path[0], frames=1).frames[0]
        else:
            picture = open_image(path[0]).rgb
        small = picture.copy()
        small.thumbnail((_SIDE_PX, _SIDE_PX), reducing_gap=2.0)
        if mask:
            _outline(small, places.find(mask, "mask"))
        return "data:image/jpeg;base64," + base64.b64encode(thumbnail(small, _SIDE_PX)).decode("ascii")
    except IvdetectError:
        return ""


def _outline(small: PILImage.Image, mask: tuple[str, object] | FileFacts) -> None:
    """Draws a red line around what the mask marks; nothing when the mask cannot be read."""
    if isinstance(mask, FileFacts):
        return
    try:
        grey = open_image(mask[0]).rgb.convert("L")
    except IvdetectError:
        return
    least = least_marked(int(grey.getextrema()[1]))  # type: ignore[arg-type]
    marked = grey.resize(small.size, PILImage.Resampling.BOX).point(lambda value: 255 if value >= least else 0)
    edge = ImageChops.difference(marked.filter(ImageFilter.MaxFilter(3)), marked)
    small.paste(_RED, (0, 0, *small.size), edge)
