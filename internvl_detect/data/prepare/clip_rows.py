"""A clip as training rows: itself, in stretches where it is long, or some of its frames as pictures on disk.

Frames of a clip appear together: their folder gets its name when all are written, so a killed run goes on and never
leaves half a clip. Not here: which frames (``media.sampling``), questions (``asking``).
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from internvl_detect.errors import OutputError
from internvl_detect.files import UNFINISHED
from internvl_detect.media.video import open_video

FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 1},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


def clip_stretches(path: str, longest_s: float) -> list[tuple[float, float] | None]:
    """A clip cut into equal stretches of at most ``longest_s`` seconds, as (start, end) in seconds; [None] where it is
    not longer, or ``longest_s`` is 0. Raises MediaError for what is no clip."""
    clip = open_video(path, frames=1)
    count = math.ceil(clip.duration_s / longest_s - 1e-6) if longest_s else 1
    if count <= 1:
        return [None]
    edges = [round(clip.duration_s * i / count, 3) for i in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def write_frames(path: str, name: str, folder: Path, count: int, form: str) -> list[str]:
    """``count`` frames of a clip (each once: fewer of a short one) as pictures FOLDER/NAME-HASH/INDEX.FORM.

    Gives their paths relative to ``folder``, in order; a clip whose frames are there is not opened again. ``name`` is
    what the clip is called, ``form`` one of FORMATS. Raises MediaError, OutputError.
    """
    home = folder / _folder_name(path, name, count, form)
    if not home.is_dir():
        _write(path, home, count, form)
    return sorted(f"{home.name}/{file}" for file in os.listdir(home))


def _folder_name(path: str, name: str, count: int, form: str) -> str:
    try:
        size = os.stat(path).st_size
    except OSError:
        size = 0  # opening it will say what is wrong
    given = f"{name}\n{size}\n{count}\n{form}".encode("utf-8", "surrogateescape")
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in Path(name).stem)[:60]
    return f"{stem}-{hashlib.blake2b(given, digest_size=8).hexdigest()}"


def _write(path: str, home: Path, count: int, form: str) -> None:
    clip = open_video(path, frames=count)
    unfinished = None
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix=UNFINISHED, dir=home.parent)
        for index, frame in dict(zip(clip.indices, clip.frames, strict=True)).items():
            frame.save(os.path.join(unfinished, f"{index:06d}.{form}"), **FORMATS[form])
        os.chmod(unfinished, 0o755)
        os.rename(unfinished, home)
    except OSError as error:
        if not home.is_dir():  # else another process was first
            raise OutputError(f"{home} could not be written: {error.strerror or error}", do="free space") from None
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
