"""Manifests: a CSV or JSONL with one file a row (path, label, where it comes from), and conversations made from it.

    rows = split_by_group(read_manifest("manifest.csv"), {"train": 0.8, "val": 0.1, "test": 0.1})
    meta = manifest_to_conversations(rows, "sets", root="pictures")

Streams: only what must be compared is held. Not here: readers of public datasets' own folders.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from internvl_detect.data.conversation_files import write_conversations
from internvl_detect.data.conversations import make_row
from internvl_detect.data.findings import did_you_mean, show
from internvl_detect.data.jsonl import MAX_LINE_BYTES, BadJson, atomically, dump, parse, read_lines, well_formed
from internvl_detect.data.labels import LABELS, normalise_label, verity
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.media.source import CLIP_SUFFIXES
from internvl_detect.questions import IMAGE_QUESTION, VIDEO_QUESTION

COLUMNS = (
    *("path", "label", "kind", "generator", "mask", "source", "licence", "group_id", "split"),
    *("dataset", "domain", "domain_tag", "words"),
)
_ALIASES = {"license": "licence", "file": "path", "filename": "path", "filepath": "path", "group": "group_id"}


@dataclass(frozen=True)
class ManifestRow:
    """One file: ``label`` is canonical (see ``labels``); empty text where nothing is known.

    ``path`` and ``mask`` are as written, relative to a root that the manifest does not name. ``kind`` is free text;
    one that begins with "video" marks a clip. Files of one ``group_id`` come from one source. ``dataset`` is a name of
    the catalog and ``domain`` what a choice calls its domain (ps, df, aigc); ``domain_tag`` is authentic, ai_generated,
    aigc_editing, deepfake or photoshop. ``words`` describe what was done, or are the explanation of an annotator.
    """

    path: str
    label: str
    kind: str = ""
    generator: str = ""
    mask: str = ""
    source: str = ""
    licence: str = ""
    group_id: str = ""
    split: str = ""
    dataset: str = ""
    domain: str = ""
    domain_tag: str = ""
    words: str = ""

    @property
    def is_video(self) -> bool:
        """By ``kind``; by the end of the path where ``kind`` says neither."""
        kind = self.kind.strip().lower()
        return kind.startswith("video") or (
            not kind.startswith("image") and self.path.lower().endswith(tuple(CLIP_SUFFIXES))
        )

    @property
    def group(self) -> str:
        """What must not cross splits: the ``group_id``, or the file by itself."""
        return self.group_id or self.path


def read_manifest(
    path: str | Path,
    *,
    on_error: Callable[[DataError], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[ManifestRow]:
    """The rows of a manifest, one at a time; JSONL when its first character is ``{``, else CSV with a header line.

    A bad row raises DataError naming its line, or goes to ``on_error`` and the rest is read on. ``warn`` is told of
    columns that are not read.
    """
    path = Path(path)

    def bad(line: int, problem: str, hint: str = "") -> None:
        error = DataError(f"{path}:{line}: {problem}", do=hint)
        if on_error is None:
            raise error
        on_error(error)

    columns: dict[str, str] = {}
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would wait for ever
            raise DataError(f"the manifest {path} is no ordinary file", expected="CSV or JSONL")
        with open(path, "rb") as file:
            is_jsonl = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
            file.seek(0)
            for line, given in (_jsonl if is_jsonl else _csv)(file, bad):
                fields: dict[str, Any] = {}
                for key, value in given.items():
                    if key not in columns:
                        columns[key] = _column(key)
                        if columns[key] not in COLUMNS and warn is not None:
                            warn(f"{path}: column {show(key)} is not read; {did_you_mean(key, COLUMNS)}")
                    if columns[key] in COLUMNS:
                        fields[columns[key]] = value
                try:
                    row = _row(fields)
                except ValueError as error:
                    bad(line, *error.args)
                else:
                    yield row
    except DataError as error:
        if str(path) in error.found:
            raise
        raise DataError(f"{path}: {error.found}", expected=error.expected, do=error.do) from None
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror or error}") from None


@lru_cache(maxsize=256)
def _column(name: str) -> str:
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def _row(fields: Mapping[str, Any]) -> ManifestRow:
    """Raises ValueError(problem, hint)."""
    for name in ("path", "label"):
        if fields.get(name) in (None, ""):
            raise ValueError(f'no "{name}"', "every row needs a path and a label")
    label = normalise_label(fields["label"])
    if label is None:
        raise ValueError(f"unknown label {show(fields['label'])}", "known: " + ", ".join(LABELS) + ", and aliases")
    texts = {name: _text(name, value) for name, value in fields.items()}
    together = "".join(texts.values())
    if "\0" in together or not well_formed(together):
        name, value = next((n, t) for n, t in texts.items() if "\0" in t or not well_formed(t))
        raise ValueError(f'"{name}" is {show(value)}', "valid UTF-8 text is expected")
    texts["label"] = label
    return ManifestRow(**texts)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, int) and name != "path"):
        return "" if value is None else str(value)
    raise ValueError(f'"{name}" is {show(value)}', "valid UTF-8 text is expected")


def _jsonl(file: BinaryIO, bad: Callable[..., None]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, _, raw in read_lines(file):
        try:
            given = parse(raw) if raw is not None else None
        except BadJson as error:
            bad(line, error.problem, error.hint)
            continue
        if isinstance(given, dict):
            yield line, given
        else:
            bad(line, "not a JSON object, or longer than 16 MiB")


def _csv(file: BinaryIO, bad: Callable[..., None]) -> Iterator[tuple[int, dict[str, Any]]]:
    def lines() -> Iterator[str]:
        """Broken bytes become lone surrogates, so that the row that holds them can be named and the rest read."""
        start = b"\xef\xbb\xbf"
        while raw := file.readline(MAX_LINE_BYTES + 1):
            if len(raw) > MAX_LINE_BYTES:
                raise DataError("a line longer than 16 MiB", do="is this a CSV manifest?")
            yield raw.removeprefix(start).decode("utf-8", "surrogateescape")
            start = b""

    first = file.readline(65536).decode("utf-8", "replace").lstrip("\ufeff")
    file.seek(0)
    reader = csv.reader(lines(), delimiter=max(",\t;", key=first.count))
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            if header is None:
                raise DataError("an empty manifest", expected="a first line that names the columns") from None
            return
        except csv.Error as error:
            bad(line, f"bad CSV: {str(error).split(' - ')[0]}", "is a quotation mark left open?")
            continue
        if header is None and fields:
            header = fields
            names = [_column(name) for name in header]
            for needed in ("path", "label"):
                if names.count(needed) != 1:
                    hint = did_you_mean(needed, [n for n in names if n]) if needed not in names else "keep one"
                    problem = f'the first line names {names.count(needed)} columns "{needed}"'
                    raise DataError(f"{problem}: {show(first.strip(), 120)}", do=hint)
        elif header is not None and len(fields) == len(header):
            yield line, dict(zip(header, fields, strict=True))
        elif header is not None and fields:
            bad(line, f"{len(fields)} fields, and the first line names {len(header)}")


def write_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> Path:
    """CSV, or JSONL when the name ends in ``.jsonl``. Raises OutputError, DataError for text that is not UTF-8."""
    with atomically(path) as file:
        if str(path).endswith(".jsonl"):
            for row in rows:
                file.write(dump(vars(row)).encode("utf-8") + b"\n")
            return Path(path)
        buffer = io.StringIO(newline="")
        minimal = csv.writer(buffer, lineterminator="\n")
        quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
        minimal.writerow(COLUMNS)
        for row in rows:
            fields = tuple(vars(row).values())  # astuple would copy each text
            # A lone carriage return is left bare by the minimal writer, and ends the row for every reader.
            (quoted if any("\r" in field for field in fields) else minimal).writerow(fields)
            if not well_formed(buffer.getvalue()):
                raise DataError(f"a manifest row that is not text: {show(row.path)}")
            file.write(buffer.getvalue().encode("utf-8"))
            buffer.seek(0)
            buffer.truncate()
        file.write(buffer.getvalue().encode("utf-8"))
    return Path(path)


def manifest_hash(rows: Iterable[ManifestRow]) -> str:
    """sha256 (hex) over the rows whatever their order or file format: the hash of their sorted hashes."""
    digests = sorted(hashlib.sha256(json.dumps(vars(row), sort_keys=True).encode("ascii")).digest() for row in rows)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def split_by_group(rows: Iterable[ManifestRow], fractions: Mapping[str, float], seed: int = 0) -> Iterator[ManifestRow]:
    """The rows with ``split`` set; all rows of one group get the same.

    A group's split follows from its name and ``seed`` alone, so it stays where it is when rows come or go; with few
    groups the shares are therefore near ``fractions``, not equal to them. Raises ConfigError for fractions that are
    negative or do not sum to 1.
    """
    shares = check_fractions(fractions)
    return (ManifestRow(**{**vars(row), "split": place_group(row.group, shares, seed)}) for row in rows)


def check_fractions(fractions: Mapping[str, float]) -> dict[str, float]:
    """Shares by split, as numbers. Raises ConfigError for negative ones and for ones that do not sum to 1."""
    shares = {name: float(share) for name, share in fractions.items()}
    if not shares or min(shares.values()) < 0 or not abs(sum(shares.values()) - 1) <= 1e-6:
        raise ConfigError(f"split fractions {shares}", expected="shares from 0 to 1 that sum to 1")
    return shares


def place_group(group: str, shares: Mapping[str, float], seed: int) -> str:
    """The split of a group: by its name and ``seed`` alone."""
    digest = hashlib.blake2b(f"{seed}\n{group}".encode(), digest_size=8).digest()
    at, edge = int.from_bytes(digest, "big") / 2**64, 0.0
    for name, share in shares.items():
        edge += share
        if at < edge:
            return name
    return [name for name, share in shares.items() if share > 0][-1]


def manifest_to_conversations(
    rows: Iterable[ManifestRow],
    out_dir: str | Path,
    *,
    root: str | Path = ".",
    name: str = "data",
    explain: Callable[[ManifestRow], str | None] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Writes ``meta.json`` and one JSONL per split into ``out_dir``, and gives the path of ``meta.json``.

    Datasets are called ``NAME_SPLIT``, or ``NAME`` where rows have no split. Each row asks the standard question and
    answers "Yes." or "No."; ``explain`` may give the sentence that follows a yes. ``settings`` adds meta keys
    by split, like {"train": {"data_augment": True, "max_dynamic_patch": 6}}. The same rows give the same bytes.
    ``root`` is what the rows' paths are relative to. Raises OutputError, DataError.
    """
    splits: dict[str, str] = {}

    def pairs() -> Iterator[tuple[str, dict[str, Any]]]:
        for row in rows:
            dataset = f"{name}_{row.split}" if row.split else name
            splits[dataset] = row.split
            yield dataset, conversation(row, explain)

    def meta_keys(dataset: str) -> dict[str, Any]:
        split = splits[dataset]
        return {**({"split": split} if split else {}), **(settings or {}).get(split, {})}

    return write_conversations(pairs(), out_dir, root=root, settings=meta_keys)


def conversation(row: ManifestRow, explain: Callable[[ManifestRow], str | None] | None = None) -> dict[str, Any]:
    """The annotation row of one file: the standard question of its kind, and a yes or no by its label."""
    answer = "No." if verity(row.label) == "real" else "Yes."
    words = explain(row) if explain is not None and answer == "Yes." else None
    if words:
        answer = f"{answer} {words.strip()}"
    more = {"id": row.path, "label": row.label}
    if row.group_id:
        more["group_id"] = row.group_id
    if row.is_video:
        return make_row(f"<video>\n{VIDEO_QUESTION}", answer, video=row.path, **more)
    return make_row(f"<image>\n{IMAGE_QUESTION}", answer, image=row.path, **more)
