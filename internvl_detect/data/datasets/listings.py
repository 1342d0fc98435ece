"""Labels, splits and masks that a published dataset keeps in a file of its own, instead of in its folders.

    listing = read_listing("dfdc", folder, note)   # {"method_A/1/1_A/2_1_A_001": Listed(split="train"), ...}

One small reader for each such file. Keys are paths from the set's folder without suffix, or bare stems. What such a
file says wrongly is a finding, and the rest is read. Not here: manifests of one's own (``manifest``).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from internvl_detect.data.findings import Finding, printable, show
from internvl_detect.data.folders import Note
from internvl_detect.data.jsonl import BadJson, parse, well_formed
from internvl_detect.data.labels import normalise_label

TELLS_LABELS = ("deepfake-eval",)  # a file that such a list leaves out has no label
MAX_BYTES = 256 * 2**20
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Listed:
    """What a list says of one file; empty where it says nothing. ``mask`` is a path from the set's folder."""

    label: str = ""
    split: str = ""
    mask: str = ""


def read_listing(kind: str, folder: str, note: Note, dataset: str = "") -> dict[str, Listed]:
    """What the lists in ``folder``, a path on disk, say of its files, by ``kind`` (see ``catalog.LISTINGS``)."""
    reader = _READERS.get(kind)
    if reader is None:
        return {}

    def bad(path: str, problem: str, hint: str = "") -> None:
        note(Finding("error", "listing", printable(path), 0, problem, hint, dataset))

    return reader(folder, bad)


def _open(path: str, bad: Callable[..., None]) -> bytes | None:
    try:
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        bad(path, f"could not be read: {error.strerror or error}")
        return None
    if len(raw) > MAX_BYTES:
        bad(path, "larger than 256 MiB; not read")
        return None
    return raw


def _json(path: str, bad: Callable[..., None]) -> Any:
    raw = _open(path, bad)
    if raw is None:
        return None
    try:
        return parse(raw)
    except BadJson as error:
        bad(path, error.problem, error.hint)
        return None


def _csv(path: str, bad: Callable[..., None], delimiter: str = ",") -> Iterator[dict[str, str]]:
    raw = _open(path, bad)
    if raw is None:
        return
    lines = raw.decode("utf-8-sig", "surrogateescape").splitlines(keepends=True)
    try:
        for row in csv.DictReader(lines, delimiter=delimiter):
            yield {str(k).strip().lower(): v.strip() for k, v in row.items() if isinstance(v, str)}
    except csv.Error as error:
        bad(path, f"bad CSV: {error}")


def _key(path: str) -> str:
    return os.path.splitext(path.replace("\\", "/").removeprefix("./"))[0]


def _dfdc(folder: str, bad: Callable[..., None]) -> dict[str, Listed]:
    path = os.path.join(folder, "dataset.json")
    given = _json(path, bad)
    if given is None:
        return {}
    if not isinstance(given, dict):
        bad(path, f"an object of files is expected, not {show(given)}")
        return {}
    return {
        _key(name): Listed(split=SPLITS.get(str(about.get("set", "")).lower(), ""))
        for name, about in given.items()
        if isinstance(about, dict)
    }


def _faceforensics(folder: str, bad: Callable[..., None]) -> dict[str, Listed]:
    listed: dict[str, Listed] = {}
    for name, split in SPLITS.items():
        for path in (os.path.join(folder, "splits", f"{name}.json"), os.path.join(folder, f"{name}.json")):
            given = _json(path, bad)
            if given is None:
                continue
            pairs = [pair for pair in given if isinstance(pair, list)] if isinstance(given, list) else []
            if not pairs:
                bad(path, "a list of pairs of clips is expected")
            for pair in pairs:
                ids = [str(one) for one in pair[:2]]
                for stem in (*ids, "_".join(ids), "_".join(reversed(ids))):
                    listed[stem] = Listed(split=split)
    return listed


def _deepfake_eval(folder: str, bad: Callable[..., None]) -> dict[str, Listed]:
    listed: dict[str, Listed] = {}
    for kind, column in (("image", "ground truth"), ("video", "video ground truth")):
        for ending in ("", "-with-links"):
            for row in _csv(os.path.join(folder, f"{kind}-metadata-publish{ending}.csv"), bad):
                label = normalise_label(row.get(column) or row.get("ground truth"))
                if name := row.get("filename"):
                    split = SPLITS.get(row.get("finetuning set", "").lower(), "test")
                    listed[f"{kind}-data/{_key(name)}"] = Listed(label=label or "", split=split)
    return listed


def _nist(folder: str, bad: Callable[..., None]) -> dict[str, Listed]:
    path = os.path.join(folder, "reference", "manipulation", "NC2016-manipulation-ref.csv")
    listed: dict[str, Listed] = {}
    for row in _csv(path, bad, "|"):
        name, mask = row.get("probefilename", ""), row.get("probemaskfilename", "").replace("\\", "/")
        if not name:
            continue
        if mask and (not well_formed(mask) or mask.startswith("/") or ":" in mask or ".." in mask.split("/")):
            bad(path, f"{show(name)}: the mask {show(mask)} is no path inside the folder")
            mask = ""
        is_real = row.get("istarget", "Y").upper() == "N"
        listed[_key(name)] = Listed(label="real" if is_real else "tampered", mask="" if is_real else mask)
    return listed


_READERS: dict[str, Callable[[str, Callable[..., None]], dict[str, Listed]]] = {
    "dfdc": _dfdc,
    "faceforensics": _faceforensics,
    "deepfake-eval": _deepfake_eval,
    "nist": _nist,
}
