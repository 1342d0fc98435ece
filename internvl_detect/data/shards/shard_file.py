"""One shard: the rows of a stretch of an annotation file, with their media, into one tar with its index.

``write_shard`` is a work item of ``engine.run_ordered``: it takes and gives plain data, and what it wrote is whole or
not there. Every picture and clip is opened first; a row that cannot be used leaves no trace but a finding. Not here:
which rows go into which shard (``writing``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from internvl_detect.data.conversations.opening import media_problem, problem_with
from internvl_detect.data.conversations.rows import Sample, Source, read_row
from internvl_detect.data.findings import Finding, show
from internvl_detect.data.jsonl import atomically, dump, parse, read_lines
from internvl_detect.data.storage.members import index_path, opened
from internvl_detect.data.storage.tar_file import END, file_header, padding
from internvl_detect.errors import MediaError
from internvl_detect.media.image import Limits, open_image
from internvl_detect.media.source import CHUNK, HEAD, clip_format, read_source
from internvl_detect.media.video import open_video

PICTURES = {"JPEG": "jpg", "TIFF": "tif", "HEIF": "heic"}  # else the format's name in small letters
CLIPS = {"mov": "mp4", "matroska": "mkv", "ogg": "ogv", "mpeg": "mpg", "asf": "wmv", "mpegts": "ts"}


@dataclass(frozen=True)
class Job:
    """A shard to be: ``label`` names its files in ``folder``, its rows are those from byte ``start`` to ``end``.

    ``first`` lines stand before it. ``plan`` is a hash of all that its bytes depend on. ``without`` are (line, reason)
    of rows that must not be touched again.
    """

    source: Source
    label: str
    folder: str
    parts: str
    start: int
    end: int
    first: int
    plan: str
    without: tuple[tuple[int, str], ...] = ()

    @property
    def tar(self) -> Path:
        """The shard's file."""
        return Path(self.folder, f"{self.label}.tar")

    @property
    def part(self) -> Path:
        """What is known of the finished shard: a line about it, then its annotation rows."""
        return Path(self.parts, f"{self.label}.jsonl")

    def rows(self) -> Iterator[tuple[int, bytes | None]]:
        """(line, bytes) of each of its rows, as ``read_lines`` gives them."""
        with open(self.source.file, "rb") as file:
            file.seek(self.start)
            for line, offset, raw in read_lines(file):
                if self.start + offset >= self.end:
                    return
                yield self.first + line, raw


@dataclass(frozen=True)
class Written:
    """A shard that is whole: ``samples`` in ``n_bytes``, and ``findings`` (as dicts) of rows left out.

    ``kept`` says that an earlier run wrote it. A stretch without one usable row has no file. ``end`` is the job's
    place in the annotation file.
    """

    label: str
    part: str
    end: int
    samples: int
    n_bytes: int
    left_out: int
    findings: list[dict[str, Any]]
    kept: bool = False


@dataclass
class _Part:
    """A file on its way into a tar; ``facts`` go into the index."""

    name: str
    data: bytes | None
    size: int
    path: str = ""
    facts: dict[str, int] = field(default_factory=dict)


def write_shard(job: Job) -> Written:
    """Writes tar, index and part, unless they are whole already. Raises OutputError."""
    if (whole := kept(job)) is not None:
        return whole
    dead = dict(job.without)
    index: list[str] = []
    rows: list[str] = []
    findings: list[dict[str, Any]] = []
    left_out = 0
    with atomically(job.tar) as file:
        for line, raw in job.rows():
            begin, known = file.tell(), len(index)
            if line in dead:
                row, found = None, [_finding(job.source, line, ("lost", dead[line], ""))]
            else:
                row, found = _add(file, raw, line, job, index)
            findings += [finding.to_dict() for finding in found if finding.level == "error"]
            if row is None:
                left_out += 1
                file.seek(begin)
                file.truncate()
                del index[known:]
            else:
                rows.append(dump(row))
        file.write(END)
        n_bytes = file.tell()
    if rows:
        with atomically(index_path(str(job.tar))) as file:
            file.write("".join(line + "\n" for line in index).encode())
    else:
        os.unlink(job.tar)
        n_bytes = 0
    about = {"plan": job.plan, "samples": len(rows), "n_bytes": n_bytes, "left_out": left_out, "findings": findings}
    with atomically(job.part) as file:
        for text in (dump(about), *rows):
            file.write(text.encode("utf-8") + b"\n")
    return Written(job.label, str(job.part), job.end, len(rows), n_bytes, left_out, findings)


def kept(job: Job) -> Written | None:
    """The shard of this very job if an earlier run finished it."""
    try:
        with open(job.part, "rb") as file:
            about = parse(file.readline())
        n_bytes = job.tar.stat().st_size if about["samples"] else 0
        indexed = os.path.isfile(index_path(str(job.tar))) or not n_bytes
        if about["plan"] != job.plan or n_bytes != about["n_bytes"] or not indexed:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    counts = about["samples"], n_bytes, about["left_out"]
    return Written(job.label, str(job.part), job.end, *counts, about["findings"], kept=True)


def check_alone(item: tuple[Source, int, bytes | None]) -> str:
    """Opens what one row names, to see whether the process lives on; an empty text when it does."""
    source, line, raw = item
    sample, _ = read_row(raw, line, source)
    for kind, path in _media(sample) if sample is not None else ():
        media_problem(kind, path, sample.clip_s if sample is not None else None)
    return ""


def _finding(source: Source, line: int, problem: tuple[str, str, str]) -> Finding:
    return Finding("error", problem[0], source.file, line, problem[1], problem[2], source.dataset)


def _media(sample: Sample) -> list[tuple[str, str]]:
    """(kind, path) of every file of a sample."""
    return [("image", path) for path in sample.images] + ([("video", sample.video)] if sample.video else [])


def _add(
    file: BinaryIO, raw: bytes | None, line: int, job: Job, index: list[str]
) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Appends one row's media and JSON; gives its row for training, or None with the findings."""
    sample, findings = read_row(raw, line, job.source)
    if sample is None or raw is None:
        return None, findings
    key = f"{line:09d}"
    parts: list[_Part] = []
    for number, (kind, path) in enumerate(_media(sample)):
        stem = key if len(sample.images) < 2 else f"{key}.{number}"

        def take(source: str | BinaryIO, stem: str = stem, kind: str = kind, path: str = path) -> None:
            parts.append(_clip(source, stem, path, sample) if kind == "video" else _picture(source, stem, path))
            _append(file, key, parts[-1], index)

        if problem := problem_with(path, kind, take):
            return None, [_finding(job.source, line, problem)]
    row = parse(raw)
    names = [part.name for part in parts]
    what = "video" if sample.video is not None else "image"
    in_list = isinstance(row.get(what), list)
    inside = {**row, **({what: names if in_list else names[0]} if names else {})}
    text = dump(inside).encode("utf-8")
    _append(file, key, _Part(f"{key}.json", text, len(text)), index)
    there = [f"{job.label}.tar/{name}" for name in names]
    return {**row, **({what: there if in_list else there[0]} if names else {})}, findings


class _Named(io.BytesIO):
    """Bytes that were read from a path, for messages."""

    name = ""


def _picture(source: str | BinaryIO, stem: str, path: str) -> _Part:
    data = _Named(read_source(source, Limits().max_bytes)[0])
    data.name = path
    picture = open_image(data)  # what is checked is what is written, should the file change meanwhile
    name = f"{stem}.{PICTURES.get(picture.format, picture.format.lower())}"
    return _Part(name, data.getvalue(), picture.n_bytes, path, {"width": picture.width, "height": picture.height})


def _clip(source: str | BinaryIO, stem: str, path: str, sample: Sample) -> _Part:
    clip = open_video(source, bound=sample.clip_s)
    with opened(path) as again, open(again, "rb") if isinstance(again, str) else again as file:
        found = clip_format(file.read(HEAD)) or ""
    return _Part(f"{stem}.{CLIPS.get(found, found)}", None, clip.n_bytes, path)


def _append(file: BinaryIO, key: str, part: _Part, index: list[str]) -> None:
    """Raises MediaError where a clip is not as long as it was a moment ago."""
    file.write(file_header(part.name, part.size))
    entry = {"key": key, "member": part.name, "offset": file.tell(), "size": part.size, **part.facts}
    if part.data is not None:
        file.write(part.data)
    else:
        left = part.size
        with opened(part.path) as again, open(again, "rb") if isinstance(again, str) else again as source:
            while left and (chunk := source.read(min(CHUNK, left))):
                left -= file.write(chunk)
            if left or source.read(1):
                raise MediaError(f"{show(part.path, 300)} changed while it was read", expected="a file at rest")
    file.write(padding(part.size))
    index.append(dump(entry))


def without(job: Job, dead: dict[int, str]) -> Job:
    """The job with (line, reason) of rows that are to be left alone."""
    return replace(job, without=tuple(sorted(dead.items())))
