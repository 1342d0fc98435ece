"""The files of a dataset that was found, as manifest rows: label, mask, split and source of each.

Used through ``FoundSet.rows``. A file with something wrong is a finding, and the rest goes on. Not here: finding the
sets (``readers``, ``layouts``), the naming habits of masks (``pairing``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from internvl_detect.data.datasets.layouts import Spot, contradicts, tag_of
from internvl_detect.data.datasets.listings import SPLITS, TELLS_LABELS, Listed, read_listing
from internvl_detect.data.datasets.pairing import MaskIndex, is_mask_folder, masks_beside
from internvl_detect.data.datasets.sources import Sources
from internvl_detect.data.findings import printable
from internvl_detect.data.folders import Note, Walk, is_media, joined, suffix_of
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.media.source import CLIP_SUFFIXES

if TYPE_CHECKING:
    from internvl_detect.data.datasets.readers import FoundSet


def spot_rows(found: FoundSet, note: Note) -> Iterator[ManifestRow]:
    """The rows of all spots of a part, in the order of their folders."""
    sources = Sources(found.dataset)
    if sources.has_rule:
        sources.link(_names(found))
    listings: dict[str, dict[str, Listed]] = {}
    walk = Walk(found.root, note, found.dataset.name, follow=False)
    for spot in found.spots:
        if found.dataset.listing and spot.layout == "published" and spot.base not in listings:
            full = walk.full(spot.base)
            listings[spot.base] = read_listing(found.dataset.listing, full, note, found.dataset.name)
        yield from _SpotReader(walk, spot, sources, listings.get(spot.base, {})).rows()


def _names(found: FoundSet) -> Iterator[str]:
    """Every file of every part, from its set's folder and without suffix, for the sources that they tie together."""
    walk = Walk(found.root, lambda finding: None, follow=False)
    for spot in found.kin:
        waiting = [spot.pictures]
        while waiting:
            folder = waiting.pop()
            if walk.enter(folder):
                folders, files = walk.read(folder)
                waiting += [joined(folder, name) for name in folders if not is_mask_folder(name)]
                below = folder[len(spot.base) :].strip("/")
                yield from (joined(below, os.path.splitext(name)[0]) for name in files if is_media(name))


class _SpotReader:
    """The rows of one folder of pictures and all below it, with the masks that belong to them."""

    def __init__(self, walk: Walk, spot: Spot, sources: Sources, listed: dict[str, Listed]) -> None:
        self.walk, self.spot, self.sources, self.listed = walk, spot, sources, listed
        part = spot.part
        self.real_names = re.compile(part.real_names, re.IGNORECASE) if part.real_names else None
        self.indexes: dict[str, MaskIndex] = {}
        self.folders_of_masks: dict[str, list[str]] = {}

    def rows(self) -> Iterator[ManifestRow]:
        spot = self.spot
        waiting = [(spot.pictures, spot.masks, False)]
        missing = 0
        while waiting:
            folder, masks, is_own = waiting.pop()
            if not self.walk.enter(folder):
                continue
            folders, files = self.walk.read(folder)
            below = [name for name in folders if self._is_below(folder, name)]
            inner = next((joined(folder, name) for name in folders if is_mask_folder(name)), "")
            if inner:
                masks, is_own = inner, True
            index = self._index(masks) if masks and self.spot.wants_masks else None
            beside = masks_beside(files) if index is None else {}
            aside = set(beside.values())
            for name in files:
                if not is_media(name) or name in aside:
                    continue
                row = self._row(folder, name, index, masks, beside)
                if row is None:
                    continue
                if not row.mask and not row.is_video and row.label not in ("real", "ai_generated"):
                    if index is not None or beside:
                        hint = f"looked for in {printable(masks or folder)}"
                        self.walk.note("warning", "mask-missing", row.path, "no mask belongs to it", hint)
                    else:
                        missing += 1
                yield row
            if index is not None and is_own and not below:  # no other folder asks for these masks
                self._orphans(masks)
            for name in reversed(below):
                own = joined(masks, name) if name in self.folders_of_masks.get(masks, ()) else ""
                waiting.append((joined(folder, name), own or masks, bool(own)))
        for left in list(self.indexes):
            self._orphans(left)
        if missing and spot.part.masks:
            problem = f"{missing} tampered pictures, and no folder of masks for them"
            self.walk.note("warning", "no-masks", spot.pictures, problem, 'put it beside them and call it "mask"')

    def _is_below(self, folder: str, name: str) -> bool:
        path = joined(folder, name)
        if is_mask_folder(name) or path == self.spot.masks:
            return False
        if self.spot.layout in ("real/fake", "imagefolder") and contradicts(name, self.spot.part.label):
            problem = f"a folder of that name inside one that says {self.spot.part.label}; not read"
            self.walk.note("error", "label-clash", path, problem, "give each label a folder of its own")
            return False
        return True

    def _index(self, folder: str) -> MaskIndex:
        if folder not in self.indexes:
            part = self.spot.part
            folders, files = self.walk.read(folder) if self.walk.enter(folder) else ([], [])
            self.folders_of_masks[folder] = folders
            index = self.indexes[folder] = MaskIndex(files, part.mask_of, part.masks_aside)
            if index.n_other and not len(index):
                problem = f"{index.n_other} files that are no pictures, where masks are expected"
                self.walk.note("warning", "mask-format", folder, problem, "write masks as PNG of the picture's size")
        return self.indexes[folder]

    def _orphans(self, folder: str) -> None:
        orphans = self.indexes.pop(folder).orphans()
        for name in orphans if folder != self.spot.masks or not self.spot.shares_masks else ():
            self.walk.note("warning", "mask-orphan", joined(folder, name), "no picture belongs to this mask")

    def _row(
        self, folder: str, name: str, index: MaskIndex | None, masks: str, beside: dict[str, str]
    ) -> ManifestRow | None:
        """The row of one file; None, with a finding, where its label is not known."""
        spot, part = self.spot, self.spot.part
        path = joined(folder, name)
        stem = os.path.splitext(name)[0]
        text = joined(folder[len(spot.base) :].strip("/"), stem)
        above, _, last = text.rpartition("/")
        keys = (text, last, above.rpartition("/")[2])  # the file, its bare name, the clip that a frame is of
        listed = next((self.listed[k] for k in keys if k in self.listed), Listed())
        label, tag = listed.label or part.label, part.domain_tag
        if not listed.label and self.real_names is not None and self.real_names.fullmatch(stem):
            label = "real"
        elif not listed.label and spot.dataset.listing in TELLS_LABELS and spot.layout == "published":
            self.walk.note("warning", "no-label", path, "the set's own list does not tell its label; not read")
            return None
        if label != part.label:
            tag = tag_of(label, spot.dataset.domain)
        is_clip = suffix_of(name) in CLIP_SUFFIXES
        mask = ""
        if label != "real" and not is_clip:
            if listed.mask:
                mask = joined(spot.base, listed.mask)
            if index is not None and (found := index.mask_of(listed.mask.rpartition("/")[2] or name)):
                mask = mask or joined(masks, found)
            elif name in beside:
                mask = joined(folder, beside[name])
        inside = folder[len(spot.pictures) :].strip("/")
        split = listed.split or spot.split or SPLITS.get(inside.partition("/")[0].lower(), "")
        return ManifestRow(
            path=path,
            label=label,
            kind="video" if is_clip else "image",
            generator=spot.generator if label != "real" else "",
            mask=mask,
            group_id=self.sources.group(text, inside, split=split, is_clip=is_clip),
            split=split,
            dataset=spot.dataset.name,
            domain=spot.dataset.domain,
            domain_tag=tag,
        )
