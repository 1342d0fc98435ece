"""Which files a command line means: files, folders, paths on standard input. By content, in a fixed order."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from internvl_detect.data.folders import is_media
from internvl_detect.errors import ConfigError, MediaError
from internvl_detect.media.source import sniff_file


def find_media(arguments: Sequence[str], stdin: TextIO | None = None) -> list[str]:
    """Every file meant, folders walked in name order without following links to folders; each once.

    ``-`` stands for paths on standard input, one a line. A file that is named is taken whatever it is; inside a folder
    one is taken when its name or its content is that of a picture or clip, so a broken one gets its own error row.
    Raises MediaError when a folder holds none, ConfigError when nothing was named.
    """
    if not arguments:
        raise ConfigError("no file was named", expected="pictures, clips, folders, or - for paths on standard input")
    found: dict[str, None] = {}
    for argument in arguments:
        if argument == "-":
            lines = (line.rstrip("\r\n") for line in (stdin or sys.stdin))
            found.update(dict.fromkeys(line for line in lines if line))
        elif os.path.isdir(argument):
            before = len(found)
            inside = list(_walk(argument))
            found.update(dict.fromkeys(inside))
            if not inside and len(found) == before:
                raise MediaError(
                    f"the folder {argument} holds no picture or clip", expected="at least one", do="check the path"
                )
        else:
            found[argument] = None
    if not found:
        raise MediaError("standard input named no file", expected="one path a line")
    return list(found)


def _walk(folder: str) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (p for p in _paths(root, files) if _is_media(p))


def _paths(root: str, names: Iterable[str]) -> Iterator[str]:
    return (os.path.join(root, name) for name in sorted(names) if not name.startswith("."))


def _is_media(path: str) -> bool:
    if is_media(path):
        return True
    try:
        return sniff_file(path) is not None
    except MediaError:
        return False
