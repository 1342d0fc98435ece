"""The catalog in words, for ``ivdetect data list`` and ``ivdetect data show``: a table, one row in full, and JSON.

    print(list_text(domain="ps", here=count_here("dataset")))

Text and plain values only; printing is the command line's business.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_detect.data.datasets.catalog import DOMAINS, Dataset, catalog, dataset_named
from internvl_detect.data.findings import Finding, did_you_mean, show
from internvl_detect.errors import ConfigError

WIDTH = 110
_COLUMNS = ("name", "domain", "kind", "files", "licence")


@dataclass
class Here:
    """What a folder holds: files by dataset, those of no catalog's dataset as well, and the findings by kind."""

    root: str
    files: Counter[str] = field(default_factory=Counter)
    layouts: dict[str, str] = field(default_factory=dict)
    findings: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        counts = {"files": dict(self.files), "layouts": self.layouts, "findings": dict(self.findings)}
        return {"root": self.root, **counts}


def count_here(root: str | Path) -> Here:
    """Counts the pictures and clips of every dataset under a folder, by their names alone. Raises DataError."""
    from internvl_detect.data.datasets.readers import find_datasets

    here = Here(str(root))

    def note(finding: Finding) -> None:
        here.findings[finding.code] += 1

    for found in find_datasets(root, note=note):
        here.layouts.setdefault(found.dataset.name, found.layout)
        here.files[found.dataset.name] += 0
        for row in found.rows(note):
            here.files[row.dataset] += 1
    return here


def rows_of(domain: str = "") -> list[Dataset]:
    """The catalog's rows of a domain, all when it is empty. Raises ConfigError for an unknown one."""
    if domain and domain.lower() not in DOMAINS:
        raise ConfigError(f"unknown domain {show(domain)}", do=did_you_mean(domain, DOMAINS))
    return [row for row in catalog() if not domain or row.domain == domain.lower()]


def list_text(domain: str = "", here: Here | None = None) -> str:
    """The table: a line a dataset, and with ``here`` how many files of it are there, then what else was found."""
    rows = rows_of(domain)
    head = list(_COLUMNS)
    cells = [[row.name, row.domain or "-", row.kind, _number(row.n_files), row.licence] for row in rows]
    if here is not None:
        head.insert(0, "here")
        for row, cell in zip(rows, cells, strict=True):
            cell.insert(0, _number(here.files.get(row.name)))
    lines = _aligned([head, *cells])
    if here is None:
        return "\n".join(lines)
    names = {row.name for row in catalog()}
    other = [name for name in here.files if name not in names]
    lines += [f"{here.files[name]:,} files in {show(name)}, {here.layouts.get(name, 'manifest')}" for name in other]
    if not here.files:
        lines.append(f"no dataset was found in {here.root}")
    if here.findings:
        told = ", ".join(f"{n} {code}" for code, n in here.findings.most_common())
        lines.append(f"found wrong: {told}")
    return "\n".join(lines)


def list_values(domain: str = "", here: Here | None = None) -> dict[str, Any]:
    """The same as plain JSON values."""
    values: dict[str, Any] = {"datasets": [values_of(row) for row in rows_of(domain)]}
    return values if here is None else {**values, "here": here.to_dict()}


def values_of(row: Dataset) -> dict[str, Any]:
    """One row as plain JSON values."""
    return {**dataclasses.asdict(row), "n_files": row.n_files}


def show_text(name: str) -> str:
    """One dataset in full: what it holds, how it lies on disk, how to get it, its traps. Raises ConfigError."""
    row = dataset_named(name)
    told = [
        ("names", ", ".join((row.name, *row.aliases))),
        ("domain", row.domain or "mixed"),
        ("kind", row.kind),
        ("files", _number(row.n_files)),
        ("splits", row.splits),
        ("licence", row.licence),
        ("home", row.home),
        ("citation", row.citation),
        ("to obtain", row.obtain),
        *(("trap", trap) for trap in row.traps),
    ]
    lines = [row.title, ""]
    for what, text in told:
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {what:<10}", subsequent_indent=" " * 12) if text else []
    if row.parts:
        lines += ["", "  what it holds, and where it is looked for:"]
        parts = [["part", "label", "domain tag", "split", "files", "masks", "pictures as downloaded"]]
        for part in row.parts:
            places = " or ".join(place.pictures for place in part.published) or "-"
            own = dict.fromkeys(place.masks for place in part.published if place.masks)
            has = " or ".join(own) or ("yes" if part.masks else "-")
            tag, split = part.domain_tag or "-", part.split or "-"
            parts.append([part.name, part.label, tag, split, _number(part.files), has, places])
        lines += [f"  {line}" for line in _aligned(parts)]
        folder = {"ps": "photoshop", "df": "deepfake", "aigc": "aigc"}.get(row.domain, "photoshop, deepfake or aigc")
        lines.append(f"  or in the README's tree: {folder}/PART/image and {folder}/PART/mask")
    return "\n".join(lines)


def _number(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = [head in ("files", "here") for head in rows[0]]
    return [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numbers, strict=True)).rstrip()
        for row in rows
    ]
