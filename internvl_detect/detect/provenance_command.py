"""``ivdetect provenance``: what files say of their own origin, in words or as JSON lines. Needs no model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from internvl_detect.data.jsonl import atomically
from internvl_detect.detect.inputs import find_media
from internvl_detect.detect.results_file import encode_row
from internvl_detect.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError, IvdetectError
from internvl_detect.media.provenance import Provenance, provenance_of, read_anchors
from internvl_detect.report.words import visible
from internvl_detect.verdict import Failure


def run(arguments: Sequence[str], *, as_json: bool = False, ela: Path | None = None, trust: Path | None = None) -> int:
    """Show every file's provenance; ``ela`` takes the error level picture, of one file. Gives the exit code."""
    paths = find_media(arguments)
    if ela is not None and len(paths) != 1:
        raise ConfigError(f"--ela with {len(paths)} files", expected="one picture")
    anchors = read_anchors(trust)
    codes = []
    for path in paths:
        try:
            found = provenance_of(path, trust=anchors, error_level=ela is not None)
        except IvdetectError as error:
            codes.append(error.exit_code)
            failure = Failure(path, str(error), error.exit_code)
            _show(encode_row(failure.to_dict()) if as_json else f"{visible(path)}\n  {visible(error)}\n".encode())
            continue
        codes.append(EXIT_OK)
        _show(encode_row({"path": path} | found.to_dict()) if as_json else in_words(path, found).encode())
        if ela is not None:
            if found.error_level is None:
                raise ConfigError(f"{path} is a clip", expected="a picture for --ela")
            with atomically(ela) as file:
                file.write(found.error_level)
    failed = [code for code in codes if code]
    return EXIT_OK if not failed else failed[0] if len(failed) == len(codes) else EXIT_SOME_FAILED


def in_words(path: str, found: Provenance) -> str:
    """The path, the whole in a sentence, then a line for each observation with its strength, and the notes."""
    lines = [visible(path), f"  {visible(found.summary)}"]
    lines += [f"  [{e.details['strength']:>7}] {e.source}: {visible(e.summary)}" for e in found.evidence]
    return "\n".join([*lines, *(f"  note: {visible(note)}" for note in found.notes)]) + "\n"


def _show(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
