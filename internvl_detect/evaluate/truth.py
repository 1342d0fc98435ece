"""The truth of predictions that do not hold it: from the rows of a manifest, found by the file's name.

    truth = Truth(read_manifest("test.csv"))
    for row in read_predictions("theirs.jsonl"):
        truth.fill(row)                    # label, dataset, group, true mask and facts; an error where no row fits
    truth.missing()                        # files that no prediction was made for, by dataset

Others write paths in their own way, so a file is found by its whole path, then by its end, then by its bare name where
only one file has it. Not here: reading either file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from internvl_detect.data.datasets.pairing import mask_stems
from internvl_detect.data.findings import show
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.errors import MediaError
from internvl_detect.evaluate.predictions import Prediction

_MASKS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_FACTS = ("generator", "domain", "kind", "words")


def of_manifest(row: ManifestRow) -> Prediction:
    """A prediction with the truth of a row and nothing said yet. Of a forgery the generator is how it was made."""
    facts = {name: value for name in _FACTS if (value := getattr(row, name))}
    return Prediction(row.path, row.label, dataset=row.dataset, group_id=row.group_id, truth_mask=row.mask, facts=facts)


class Truth:
    """The rows of a manifest by the paths of their files."""

    def __init__(self, rows: Iterable[ManifestRow]) -> None:
        self._rows: dict[str, ManifestRow] = {}
        self._bare: dict[str, str | None] = {}  # bare name -> path, None where several have it
        self._left: dict[str, None] = {}
        for row in rows:
            path = _plain(row.path)
            self._rows[path] = row
            self._left[path] = None
            name = path.rpartition("/")[2]
            self._bare[name] = None if name in self._bare else path

    def __len__(self) -> int:
        return len(self._rows)

    def fill(self, row: Prediction) -> None:
        """Give a prediction its truth; what it says of that itself is overruled."""
        path = self._find(_plain(row.image))
        if path is None:
            row.label, row.error = "", row.error or f"no row of the data is {show(row.image, 200)}"
            return
        if path not in self._left:
            row.label, row.error = "", row.error or f"another row is of {show(path, 200)} too"
            return
        del self._left[path]
        true = of_manifest(self._rows[path])
        row.image, row.label, row.dataset = true.image, true.label, true.dataset
        row.group_id, row.truth_mask, row.facts = true.group_id, true.truth_mask, row.facts | true.facts

    def missing(self) -> Counter[str]:
        """How many files of each dataset no prediction was found for."""
        return Counter(self._rows[path].dataset for path in self._left)

    def _find(self, path: str) -> str | None:
        end = path
        while end not in self._rows:
            _, slash, end = end.partition("/")
            if not slash:
                return self._bare.get(path.rpartition("/")[2])
        return end


def _plain(path: str) -> str:
    """As paths are compared: what leads up at the beginning says where a list lies, not which file it means."""
    plain = os.path.normpath(path.replace("\\", "/")).replace(os.sep, "/")
    while plain.startswith("../"):
        plain = plain[3:]
    return plain


def inside(root: Path, path: str) -> Path:
    """``path`` under ``root``. Raises MediaError where it leads out of it, by dots, as an absolute one or by a link."""
    whole = os.path.realpath(os.path.join(root, path))
    base = os.path.realpath(root)
    if whole != base and not whole.startswith(base.rstrip(os.sep) + os.sep):
        raise MediaError(f"{show(path, 200)} leads out of its folder", expected="a path inside it")
    return Path(whole)


def find_mask(root: Path, image: str) -> str:
    """The mask that a system drew of a picture, as a path from ``root``; "" where there is none.

    In a folder like the picture's, or flat; under the picture's name or a usual variant of it (``_mask``, ``_gt``).
    """
    folder, _, name = _plain(image).lstrip("/").rpartition("/")
    parts = [part for part in folder.split("/") if part not in ("", "..", ".")]
    for at in range(len(parts) + 1):
        own = root.joinpath(*parts[at:])
        if own.is_dir():
            for stem in mask_stems(name):
                for suffix in _MASKS:
                    if (own / f"{stem}{suffix}").is_file():
                        return (own / f"{stem}{suffix}").relative_to(root).as_posix()
    return ""
