"""How a folder is laid out: which part of which dataset lies where, found by the names of folders alone.

Four forms: the README's tree (``photoshop/CASIAv2_Tp/image``), a dataset's own folder as downloaded (``published`` in
the catalog), folders named by label (``real/ fake/``), and the same under ``train/ val/ test/``. Not here: the files
(``spots``), the sets themselves (``catalog.yaml``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from internvl_detect.data.datasets.catalog import DOMAIN_FOLDERS, Dataset, Part, catalog, key, plain_dataset
from internvl_detect.data.datasets.listings import SPLITS
from internvl_detect.data.datasets.pairing import is_mask_folder
from internvl_detect.data.folders import Glance, joined
from internvl_detect.data.labels import normalise_label

Layout = Literal["readme", "published", "real/fake", "imagefolder", "manifest"]
IMAGE_FOLDERS = ("image", "images")
_TAGS = {"real": "authentic", "ai_generated": "ai_generated", "deepfake": "deepfake"}
_TAG_OF_TAMPERED = {"ps": "photoshop", "aigc": "aigc_editing", "df": "deepfake"}
DOUBTFUL = ("0", "1", "yes", "no", "photo", "natural", "nature", "edited", "generated", "original")

_LOOKED_AT = 50  # folders in a folder; more are clips or classes, not datasets

Look = Callable[[str], Glance]


@dataclass(frozen=True)
class Spot:
    """One folder of pictures or clips of one part; paths are taken from the root. ``masks`` is empty for none known.

    ``shares_masks`` says that another spot has the same masks, so that one not used here belongs there.
    """

    dataset: Dataset
    part: Part
    base: str
    pictures: str
    layout: Layout
    masks: str = ""
    split: str = ""
    generator: str = ""
    shares_masks: bool = False

    @property
    def wants_masks(self) -> bool:
        """Whether its files may have a mask: authentic and wholly generated ones have none."""
        return bool(self.masks) or self.part.masks or self.part.label not in ("real", "ai_generated")


def readme_spots(folder: str, look: Look, domain: str) -> list[Spot]:
    """The spot of a folder ``NAME/{image,mask}`` whose name is that of a part, or that lies in a domain's folder."""
    name = folder.rpartition("/")[2]
    inside = look(folder).folders
    pictures = next((f for f in inside if f.lower() in IMAGE_FOLDERS), None)
    if pictures is None:
        return []
    masks = next((f for f in inside if is_mask_folder(f)), "")
    found = _known_part(name)
    if found is None and domain:
        found = _own_part(name, domain, has_masks=bool(masks))
    if found is None:
        return []
    dataset, part = found
    masks = joined(folder, masks) if masks else ""
    return [Spot(dataset, part, folder, joined(folder, pictures), "readme", masks, part.split)]


def _known_part(name: str) -> tuple[Dataset, Part] | None:
    for row in catalog():
        try:
            return row, row.part(name)
        except KeyError:
            pass
    for row in catalog():
        if row.is_called(name) and any(part.masks for part in row.parts):  # its tampered part, under the set's name
            return row, row.parts[0]
    return None


def _own_part(name: str, domain: str, has_masks: bool) -> tuple[Dataset, Part] | None:
    """A folder of the user's own in the README's tree: its label by the end of its name, or by its masks."""
    stem, _, end = name.rpartition("_")
    split = SPLITS.get(end.lower(), "")
    label = normalise_label(end) if stem and end.lower() in ("tp", "au", "real", "fake") else None
    if label is None and has_masks:
        label = "deepfake" if domain == "df" else "tampered"
    if label is None:
        return None
    label = "tampered" if label == "fake" else label
    dataset = plain_dataset(stem if stem and (split or end.lower() in ("tp", "au", "real", "fake")) else name, domain)
    return dataset, Part(name, label, tag_of(label, domain), masks=has_masks, split=split)


def published_spots(folder: str, name: str, look: Look) -> list[Spot]:
    """The spots of a dataset's own folder; ``name`` is the folder's name, which the root's path does not tell."""
    for row in catalog():
        signed = bool(row.signature) and all(next(expand(folder, s, look), None) for s in row.signature)
        if signed or row.has_folder(name):
            spots = list(_published(row, folder, look))
            if spots:
                return spots
    return []


def _published(row: Dataset, folder: str, look: Look) -> Iterator[Spot]:
    taken: set[str] = set()
    for part in row.parts:
        for place in part.published:
            for pictures, bound in expand(folder, place.pictures, look):
                name = pictures.rpartition("/")[2]
                if pictures in taken or is_mask_folder(name):
                    continue
                taken.add(pictures)
                pattern = re.sub(r"\{(\w+)\}", lambda m, b=bound: b.get(m[1], m[0]), place.masks)  # type: ignore[misc]
                masks = [path for path, _ in expand(folder, pattern, look)] if pattern else []
                split = SPLITS.get(bound.get("split", "").lower(), part.split)
                at = masks[-1] if masks else ""  # SegmentationFakePng, made from SegmentationFake, comes after it
                yield Spot(row, part, folder, pictures, "published", at, split, bound.get("generator", ""))


def expand(folder: str, pattern: str, look: Look) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(path, what the placeholders stand for) of the folders that a pattern of the catalog means; case aside."""
    first, _, rest = pattern.partition("/")
    rule = _segment(first)
    for name in look(folder).folders:
        if found := rule.fullmatch(name):
            path = joined(folder, name)
            if not rest:
                yield path, found.groupdict()
            else:
                yield from ((p, {**found.groupdict(), **more}) for p, more in expand(path, rest, look))


def _segment(segment: str) -> re.Pattern[str]:
    def piece(word: str) -> str:
        if word == "*":
            return ".*"
        if word == "{split}":
            return f"(?P<split>{'|'.join(SPLITS)})"
        return f"(?P<{word[1:-1]}>.+)" if word.startswith("{") else re.escape(word)

    words = [word for word in re.split(r"(\*|\{\w+\})", segment) if word]
    return re.compile("".join(map(piece, words)), re.IGNORECASE)


def label_spots(folder: str, look: Look, dataset: Dataset, split: str) -> list[Spot]:
    """The spots of the children of a folder that are named by a label, like ``real`` and ``fake``."""
    named = {child: label for child in look(folder).folders if (label := label_of_folder(child)) is not None}
    if len({label == "real" for label in named.values()}) < 2:  # "photo" or "0" alone says nothing
        named = {child: label for child, label in named.items() if child.lower() not in DOUBTFUL}
        for child in [name for name in named if name.lower() in DOMAIN_FOLDERS]:
            if not look(joined(folder, child)).n_media:  # the README's tree, not pictures of that label
                del named[child]
    spots = []
    for child, label in named.items():
        if _holds_sets(joined(folder, child), look):
            continue
        known = next((p for p in dataset.parts if p.label == label and not p.split), None)
        part = Part(child, label, known.domain_tag if known else tag_of(label, dataset.domain))
        layout: Layout = "imagefolder" if split else "real/fake"
        spots.append(Spot(dataset, part, folder, joined(folder, child), layout, split=split))
    return spots


def _holds_sets(folder: str, look: Look) -> bool:
    """Whether known datasets lie in it, whose parts say more than its own name."""
    children = [joined(folder, child) for child in look(folder).folders[:_LOOKED_AT]]
    return any(
        readme_spots(child, look, "") or published_spots(child, child.rpartition("/")[2], look) for child in children
    )


def label_of_folder(name: str) -> str | None:
    """The label that a folder's name tells: ``real``, ``0_real``, ``fake_images``, ``AI`` and the like; else None."""
    label = normalise_label(name)
    if label is None:
        bare = re.sub(r"^\d[_-]|[_-](images?|pictures?|photos?|videos?|clips?)$", "", name.lower())
        label = normalise_label(bare) if bare else None
    return label


def tag_of(label: str, domain: str) -> str:
    """The domain tag of a label: of "tampered" by the domain; empty where nothing tells."""
    return _TAG_OF_TAMPERED.get(domain, "") if label == "tampered" else _TAGS.get(label, "")


def contradicts(name: str, label: str) -> bool:
    """Whether a folder's name surely tells a label of the other kind: ``Au`` below ``fake``."""
    other = label_of_folder(name) if name.lower() not in DOUBTFUL else None
    return other is not None and (other == "real") != (label == "real")


def part_names() -> list[str]:
    """The names that the README's tree knows, for a hint."""
    return sorted({part.name for row in catalog() for part in row.parts}, key=key)
