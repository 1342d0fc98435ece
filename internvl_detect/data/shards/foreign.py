"""Shards from others: WebDataset tars read sample by sample, and made into a training set where they lie.

    for sample in read_shards(["a-000.tar", "s3://bucket/a-001.tar"], on_error=print):
        sample.key, sample.files["jpg"]
    shards_to_meta(["a-000.tar", "a-001.tar"], "sets/a")   # sets/a/meta.json, ready to train

Tars come from strangers: nothing is extracted, sizes are bounded, links, devices and sparse files are refused, and what
breaks costs its sample or the rest of its tar, no more. Not here: writing shards (``writing``), random access
(``members``).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from internvl_detect.data.conversations.from_manifest import conversation
from internvl_detect.data.conversations.meta import write_meta
from internvl_detect.data.findings import show
from internvl_detect.data.jsonl import MAX_LINE_BYTES, BadJson, atomically, dump, parse
from internvl_detect.data.labels import normalise_label
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.storage.members import open_tar
from internvl_detect.data.storage.stores import is_address
from internvl_detect.data.storage.tar_file import Member, walk
from internvl_detect.errors import ConfigError, DataError, MediaError

MAX_SAMPLE_BYTES = 1 << 30
MAX_FILES = 1000  # of one sample
PICTURE_ENDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic")
CLIP_ENDS = ("mp4", "mov", "webm", "mkv", "avi", "m4v", "mpg", "ogv", "flv", "wmv", "ts")
_LABEL_ENDS = ("cls", "label", "cls.txt", "label.txt")
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)  # WebDataset's: the key ends at the first dot

OnError = Callable[[DataError], None]


@dataclass(frozen=True)
class ShardSample:
    """The files of one key by the ends of their names in small letters ("jpg", "0.png", "json")."""

    shard: str
    key: str
    files: dict[str, bytes]


def read_shards(
    tars: Iterable[str | Path], *, on_error: OnError | None = None, max_sample_bytes: int = MAX_SAMPLE_BYTES
) -> Iterator[ShardSample]:
    """Every sample of paths or addresses of uncompressed tars, in their order; one sample is in memory at a time.

    Neighbours of one key are a sample, as in WebDataset; names without an end are passed over. A sample that is too
    large or holds what is refused, and a tar that is broken or cut off (its whole samples come first), raise DataError
    naming the tar, or go to ``on_error`` and the rest is read on.
    """
    bad = on_error or _raise
    for tar in map(str, tars):
        for key, members, file in _samples(tar, bad, max_sample_bytes):
            yield ShardSample(tar, key, {end: _content(file, member) for end, member in members.items()})


def shards_to_meta(
    tars: Iterable[str | Path],
    out: str | Path,
    *,
    name: str = "shards",
    on_error: OnError | None = None,
) -> Path:
    """Writes ``meta.json`` and ``NAME.jsonl`` into ``out`` for shards that stay where they are; gives the meta's path.

    A sample's KEY.json is its annotation row when it holds ``conversations``; else the standard question is asked, and
    answered by the label in KEY.json or KEY.cls (names of labels, 0 real, 1 fake). Its pictures or its clip are those
    in the tar. A sample without either goes to ``on_error``, or raises DataError. Raises ConfigError where ``out``
    holds a meta.json already or the shards have no folder or store in common, OutputError.
    """
    paths = [str(tar) if is_address(str(tar)) else os.path.abspath(tar) for tar in tars]
    root = _common(paths)
    first: list[DataError] = []

    def bad(error: DataError) -> None:
        first[:] = first or [error]
        (on_error or _raise)(error)

    if (Path(out) / "meta.json").exists():
        raise ConfigError(f"{out} holds a meta.json", expected="a new folder", do="choose another name")
    length = 0
    with atomically(Path(out) / f"{name}.jsonl") as rows:
        for tar in paths:
            inside = tar[len(root) :].lstrip("/" + os.sep).replace(os.sep, "/")
            for key, members, file in _samples(tar, bad, MAX_LINE_BYTES, only=("json", *_LABEL_ENDS)):
                try:
                    row = _row(key, members, file, f"{inside}/")
                except (BadJson, DataError) as error:
                    problem = error.problem if isinstance(error, BadJson) else error.found
                    bad(DataError(f"{tar}: {show(key)}: {problem}"))
                    continue
                rows.write(dump(row).encode("utf-8") + b"\n")
                length += 1
        if not length:
            why = f"the first problem: {first[0]}" if first else "is there a KEY.json or KEY.cls?"
            raise DataError(f"no sample of {len(paths)} shards can be used", do=why)
    shown = root if is_address(root) else Path(os.path.relpath(root, out)).as_posix()
    given = {"root": shown, "annotation": f"{name}.jsonl", "repeat_time": 1, "length": length}
    return write_meta(Path(out) / "meta.json", {name: given})


def _raise(error: DataError) -> None:
    raise error


def _samples(
    tar: str, bad: OnError, max_bytes: int, only: tuple[str, ...] | None = None
) -> Iterator[tuple[str, dict[str, Member], BinaryIO]]:
    """(key, members by end, open tar) of each sample without a problem; ``only`` the members that will be read count
    for its size."""
    try:
        with open_tar(tar) as file:
            key, members, problem = "", dict[str, Member](), ""
            stop: DataError | None = None
            source = walk(file, tar)
            while True:
                try:
                    member = next(source, None)
                except DataError as error:  # the samples before the break are whole but for the last, which may not be
                    member, stop = None, error
                match = _NAME.fullmatch(member.name) if member is not None else None
                if member is not None and (match is None or match[1].rpartition("/")[2].startswith("__")):
                    continue
                if match is None or match[1] != key:
                    if problem:
                        bad(DataError(f"{tar}: the sample {show(key)} is left out: {problem}"))
                    elif members and stop is None:
                        yield key, members, file
                    key, members, problem = match[1] if match else "", {}, ""
                if member is None or match is None:
                    break
                end = match[2].lower()
                wanted = [m.size for e, m in members.items() if only is None or e in only]
                size = sum(wanted) + (member.size if only is None or end in only else 0)
                if member.problem:
                    problem = f"{show(member.name)} is {member.problem}"
                elif end in members:
                    problem = f"{show(member.name)} stands in it twice"
                elif len(members) == MAX_FILES or size > max_bytes:
                    problem = f"it has more than {MAX_FILES} files or {max_bytes} bytes"
                elif not problem:
                    members[end] = member
            if stop is not None:
                bad(stop)
    except OSError as error:
        bad(DataError(f"{tar} could not be read: {error.strerror or error}"))
    except MediaError as error:
        bad(DataError(error.found, expected=error.expected, do=error.do))


def _content(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _row(key: str, members: dict[str, Member], file: BinaryIO, tar: str) -> dict[str, Any]:
    """The annotation row of a sample. Raises BadJson, DataError."""
    said = parse(_content(file, members["json"])) if "json" in members else {}
    if not isinstance(said, dict):
        raise DataError("its JSON is no object")
    ends = {end: end.rpartition(".")[2] for end in members}
    pictures = [tar + posixpath.normpath(members[end].name) for end, last in ends.items() if last in PICTURE_ENDS]
    clips = [tar + posixpath.normpath(members[end].name) for end, last in ends.items() if last in CLIP_ENDS]
    media: dict[str, Any] = {"image": pictures[0] if len(pictures) == 1 else pictures} if pictures else {}
    if clips and (not pictures or "video" in said):
        media = {"video": clips[0]}
    if "conversations" in said:
        return {**{k: v for k, v in said.items() if k not in ("image", "video")}, **media}
    if not media:
        raise DataError("neither a picture nor a clip is in it")
    texts = [_content(file, members[end]).decode("utf-8", "replace").strip() for end in _LABEL_ENDS if end in members]
    label = next((found for text in (said.get("label"), *texts) if (found := normalise_label(text))), None)
    if label is None:
        raise DataError("no label in KEY.json or KEY.cls")
    path = media.get("video") or pictures[0]
    kind = "video" if "video" in media else "image"
    group = said.get("group_id")
    row = conversation(ManifestRow(path, label, kind, group_id=group if isinstance(group, str) else ""))
    return {**row, "id": key}


def _common(paths: list[str]) -> str:
    """The folder, or address, that all paths start from."""
    if not paths:
        raise ConfigError("no shards", expected="paths or addresses of tars")
    if any(map(is_address, paths)):
        stores = {path.split("/", 3)[:3][-1] if is_address(path) else "" for path in paths}
        schemes = {path.partition("://")[0] for path in paths}
        if len(stores) > 1 or len(schemes) > 1:
            raise ConfigError("shards of several stores", do="make one set of each")
        scheme = paths[0].partition("://")[0]
        return f"{scheme}://" + posixpath.commonpath([posixpath.dirname(p.partition("://")[2]) for p in paths])
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # several drives
        raise ConfigError("shards that have no folder in common", do="make one set of each") from None
