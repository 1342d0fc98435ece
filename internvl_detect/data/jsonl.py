"""JSON and JSONL from strangers: bounded lines, strict parsing, and writing that leaves no half file behind.

Not here: what the fields mean (``rows``). Nothing in this module raises anything but IvdetectError on bad content;
``parse`` gives the reason as a ``BadJson`` whose text is meant for people.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from internvl_detect.data.findings import show
from internvl_detect.errors import DataError, OutputError
from internvl_detect.files import UNFINISHED

MAX_LINE_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class BadJson(Exception):
    """Why a text is not acceptable JSON: ``problem`` and ``hint``, in words."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem, self.hint = problem, hint


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise BadJson(f"the key {show(twice, 40)} appears twice in one object")
    return made


def _no_constants(name: str) -> Any:
    raise BadJson(f"{name} is not valid JSON", "write a number, or null")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constants)


def parse(raw: bytes) -> Any:
    """The value of one JSON text in UTF-8. Raises BadJson: encoding, syntax, NaN, a key twice, too deep."""
    if raw.startswith(_BOM):
        raw = raw[len(_BOM) :]
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadJson("the text is UTF-16", "save the file as UTF-8")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadJson(f"not valid UTF-8 at byte {error.start + 1}", "save the file as UTF-8") from None
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise BadJson(f"bad JSON: {error.msg.lower()} at {where}") from None
    except RecursionError:
        raise BadJson("bad JSON: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadJson(f"bad JSON: {str(error).split(';')[0][:120]}") from None


def well_formed(text: str) -> bool:
    """Whether a string can be written as UTF-8: JSON escapes can smuggle in half a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_lines(file: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, int, bytes | None]]:
    """(line number from 1, byte offset, bytes without the line end) of each line with content, in bounded memory.

    Empty lines are passed over but counted. None stands for a line longer than ``max_bytes``; it is skipped whole.
    """
    line = offset = 0
    while chunk := file.readline(max_bytes + 2):
        line += 1
        start = offset
        offset += len(chunk)
        too_long = len(chunk.rstrip(b"\r\n")) > max_bytes
        while not chunk.endswith(b"\n") and (more := file.readline(max_bytes + 2)):
            offset += len(more)
            chunk, too_long = more, True
        if too_long:
            yield line, start, None
        elif (content := chunk.strip(b" \t\r\n")) and content != _BOM:
            yield line, start, chunk.rstrip(b"\r\n")


def dump(value: Any) -> str:
    """One line of JSON, readable characters kept. Raises DataError for NaN, infinities and broken strings."""
    try:
        text = _ENCODER.encode(value)
        text.encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"a row that cannot be written as JSON: {str(error)[:120]}") from None
    return text


@contextmanager
def atomically(path: str | Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` to write into, which takes its name when the block ends well; else the old file stays.

    Raises OutputError when the disk is full, the folder cannot be written, or ``path`` is a folder, device or pipe
    (whose place the file would take: /dev/null is needed by others).
    """
    path = Path(path)
    temporary = None
    try:
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is no ordinary file", do="name a new file")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        found = f"{path} could not be written: {error.strerror or error}"
        raise OutputError(found, do="free space or fix permissions") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Rows as UTF-8 JSONL, one object a line, keys in the order given. Raises OutputError, DataError."""
    with atomically(path) as file:
        for row in rows:
            file.write(dump(row).encode("utf-8") + b"\n")
    return Path(path)


def remembered(cache: Path, key: str) -> dict[str, dict[str, Any]]:
    """By ``picture``, the objects with this ``key`` of a JSONL that is added to line by line; others and broken lines
    are passed over. Nothing where there is no such file."""
    found = {}
    if cache.is_file():
        with cache.open("rb") as file:
            for _, _, raw in read_lines(file):
                try:
                    line = parse(raw or b"")
                    if line["key"] == key:
                        found[str(line["picture"])] = line
                except (BadJson, KeyError, TypeError, ValueError):
                    continue
    return found
