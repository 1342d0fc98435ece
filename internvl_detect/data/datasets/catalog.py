"""The catalog: one row a dataset, with what it holds, how it lies on disk, its licence, its traps, how to obtain it.

    dataset = dataset_named("casia2.0")   # CASIA2
    for row in catalog(): print(row.name, row.n_files, row.licence)

The rows are ``catalog.yaml``, whose first lines explain its keys. Not here: finding the sets on a disk (``readers``).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from internvl_detect.data.findings import did_you_mean, show
from internvl_detect.data.labels import LABELS
from internvl_detect.errors import ConfigError

DOMAINS = ("ps", "df", "aigc")
DOMAIN_FOLDERS = {"photoshop": "ps", "deepfake": "df", "aigc": "aigc"}
DOMAIN_TAGS = ("authentic", "ai_generated", "aigc_editing", "deepfake", "photoshop")
KINDS = ("image", "video", "image and video", "text")
LISTINGS = ("", "nist", "faceforensics", "dfdc", "deepfake-eval")
UNSTATED = "not stated; ask the authors"

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Place:
    """Where a part lies in the folder as published: patterns from the set's folder, ``masks`` empty for none."""

    pictures: str
    masks: str = ""


@dataclass(frozen=True)
class Part:
    """A part of a dataset that has one label. ``files`` counts its pictures or clips as published, None if uncertain.

    ``real_names``, ``masks_aside`` and ``mask_of`` are regular expressions for whole stems, as ``catalog.yaml`` says.
    """

    name: str
    label: str
    domain_tag: str = ""
    aliases: tuple[str, ...] = ()
    split: str = ""
    masks: bool = False
    files: int | None = None
    published: tuple[Place, ...] = ()
    real_names: str = ""
    mask_of: tuple[str, ...] = ()
    masks_aside: str = ""


@dataclass(frozen=True)
class Dataset:
    """One row of the catalog. ``domain`` is ps, df or aigc, empty where the set is mixed."""

    name: str
    title: str = ""
    aliases: tuple[str, ...] = ()
    folder_names: tuple[str, ...] = ()
    domain: str = ""
    kind: str = "image"
    parts: tuple[Part, ...] = ()
    signature: tuple[str, ...] = ()
    sources: str = ""
    listing: str = ""
    files: int | None = None
    splits: str = "none"
    licence: str = UNSTATED
    home: str = ""
    citation: str = ""
    obtain: str = ""
    traps: tuple[str, ...] = ()

    @property
    def n_files(self) -> int | None:
        """Pictures and clips as published, masks not counted; None where that is not certain."""
        counts = [part.files for part in self.parts]
        return self.files if None in counts or not counts else sum(c for c in counts if c is not None)

    def part(self, name: str) -> Part:
        """The part of that name or alias, case aside. Raises KeyError."""
        for part in self.parts:
            if key(name) in map(key, (part.name, *part.aliases)):
                return part
        raise KeyError(name)

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is its name or an alias, case, spaces, hyphens, dots and underscores aside."""
        return key(name) in map(key, (self.name, *self.aliases))

    def has_folder(self, name: str) -> bool:
        """Whether a folder called ``name`` is likely this set's folder as downloaded."""
        return self.is_called(name) or any(fnmatch.fnmatchcase(name.lower(), p.lower()) for p in self.folder_names)


def key(name: str) -> str:
    """A name as it is compared: case, spaces, hyphens, dots and underscores aside."""
    return re.sub(r"[\s_.\-]+", "", name.casefold())


@cache
def catalog() -> tuple[Dataset, ...]:
    """Every row, in the order of ``catalog.yaml``. Raises ConfigError naming what a row does wrong."""
    from internvl_detect.files import read_yaml

    rows = load_catalog(read_yaml(Path(__file__).with_name("catalog.yaml"))["datasets"])
    taken: dict[str, str] = {}
    for row in rows:
        for name in {key(n) for n in (row.name, *row.aliases)}:
            if name in taken:
                raise ConfigError(f"the catalog calls both {taken[name]} and {row.name} {show(name)}")
            taken[name] = row.name
    return rows


def load_catalog(rows: Iterable[Mapping[str, Any]]) -> tuple[Dataset, ...]:
    """Rows as they stand in the YAML, checked. Raises ConfigError naming the row and the key."""
    made = []
    for given in rows:
        where = f"dataset {show(str(given.get('name')))}"
        parts = []
        for part in given.get("parts", []):
            places = tuple(_make(Place, p, where) for p in part.get("published", []))
            parts.append(_make(Part, {**part, "published": places}, where))
        row = _make(Dataset, {**given, "parts": tuple(parts)}, where)
        _check(row, where)
        made.append(row)
    return tuple(made)


def _make(kind: type[_Row], given: Mapping[str, Any], where: str) -> _Row:
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise ConfigError(f"{where}: unknown key {show(name)}", do=did_you_mean(str(name), known))
    for name, field in known.items():
        if name not in given and field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}: no {name}")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})


def _check(row: Dataset, where: str) -> None:
    for what, value, known in (
        ("domain", row.domain, ("", *DOMAINS)),
        ("kind", row.kind, KINDS),
        ("listing", row.listing, LISTINGS),
        *(("label", part.label, LABELS) for part in row.parts),
        *(("domain_tag", part.domain_tag, ("", *DOMAIN_TAGS)) for part in row.parts),
    ):
        if value not in known:
            raise ConfigError(f"{where}: {what} {show(value)}", do=did_you_mean(str(value), known))
    rules = [row.sources, *(r for p in row.parts for r in (p.real_names, p.masks_aside, *p.mask_of[:1]))]
    for rule in rules:
        try:
            re.compile(rule)
        except re.error as error:
            raise ConfigError(f"{where}: {show(rule)} is no regular expression ({error})") from None
    for part in row.parts:
        if len(part.mask_of) not in (0, 2):
            raise ConfigError(f"{where}: mask_of of {part.name}", expected="[picture's stem, mask's stem]")


def dataset_named(name: str) -> Dataset:
    """The row of a name or alias, case aside. Raises ConfigError that names the nearest one."""
    for row in catalog():
        if row.is_called(name):
            return row
    names = [n for row in catalog() for n in (row.name, *row.aliases)]
    raise ConfigError(f"no dataset is called {show(name)}", do=did_you_mean(name, names))


def plain_dataset(name: str, domain: str = "") -> Dataset:
    """A row for a folder of one's own that the catalog does not hold."""
    title, licence = "a folder of your own", "yours to know"
    return Dataset(name, title, domain=domain, kind="image and video", licence=licence)
