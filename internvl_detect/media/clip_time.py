"""A file object for FFmpeg that stops giving bytes when the time for a clip is over: hostile clips decode for hours."""

from __future__ import annotations

import time
from typing import BinaryIO

from internvl_detect.errors import MediaError


class Timed:
    """Reads and seeks in ``file`` until ``deadline`` (time.monotonic); then every read raises MediaError ``found``."""

    def __init__(self, file: BinaryIO, deadline: float, found: str) -> None:
        self.file, self.deadline, self.found = file, deadline, found

    def read(self, size: int = -1) -> bytes:
        if time.monotonic() > self.deadline:
            raise MediaError(self.found, expected="a clip that decodes in time", do="Cut the clip, or raise max_read_s")
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True
