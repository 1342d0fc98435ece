"""Opening the media of many rows in a pool of threads: is the file there, and can it be decoded?

Threads, not processes: decoding leaves the interpreter free, and nothing has to be copied. Not here: what is in a
picture (``internvl_detect.media``).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from internvl_detect.data.conversations.rows import Sample
from internvl_detect.data.findings import show
from internvl_detect.data.storage.members import opened
from internvl_detect.data.storage.stores import NotThere
from internvl_detect.errors import MediaError, OutputError

_REMEMBERED = 8192

Problem = tuple[str, str, str] | None  # code, problem, hint


class MediaDesk:
    """Opens media in ``pool``, each file once as long as it is remembered. ``max_pending`` rows may be in the works."""

    def __init__(self, pool: ThreadPoolExecutor, open_them: bool, max_pending: int) -> None:
        self.pool, self.open_them, self.max_pending = pool, open_them, max_pending
        self.known: OrderedDict[tuple[Any, ...], Future[Problem]] = OrderedDict()

    def ask(self, sample: Sample) -> list[tuple[str, Future[Problem]]]:
        """(path, what will be found wrong with it) of every picture or clip of a sample; does not wait."""
        wanted = [("image", path, None) for path in sample.images]
        wanted += [("video", sample.video, sample.clip_s)] if sample.video is not None else []  # type: ignore[list-item]
        return [(key[1], self._ask(key)) for key in wanted]

    def _ask(self, key: tuple[Any, ...]) -> Future[Problem]:
        if key in self.known:
            self.known.move_to_end(key)
            return self.known[key]
        future = self.known[key] = self.pool.submit(media_problem, *key, open_it=self.open_them)
        if len(self.known) > _REMEMBERED:
            self.known.popitem(last=False)
        return future


def media_problem(kind: str, path: str, clip_s: tuple[float, float] | None = None, *, open_it: bool = True) -> Problem:
    """(code, problem, hint) when a picture ("image") or clip ("video") is missing or cannot be decoded; else None."""

    def use(source: str | BinaryIO) -> None:
        if open_it and kind == "video":
            from internvl_detect.media.video import open_video

            open_video(source, frames=8, bound=clip_s)
        elif open_it:
            from internvl_detect.media.image import open_image

            open_image(source)

    return problem_with(path, kind, use)


def problem_with(path: str, kind: str, use: Callable[[str | BinaryIO], None]) -> Problem:
    """(code, problem, hint) when the file that a row names is missing or ``use`` cannot read it; else None."""
    try:
        with opened(path) as source:
            if source is path and not os.path.exists(path):
                return "missing-file", f"{kind} not found: {show(path, 300)}", "paths are read from the dataset's root"
            if source is path and not os.path.isfile(path):
                return "missing-file", f"not a file: {show(path, 300)}", ""
            use(source)
    except NotThere as error:
        return "missing-file", error.found, error.do
    except MediaError as error:
        found = error.found if path in error.found else f"{show(path, 300)}: {error.found}"
        return "unreadable-media", found, error.do or error.expected
    except (ImportError, OutputError):
        raise
    except Exception as error:  # whatever a decoder throws at a stranger's file must not end the check
        return "unreadable-media", f"{show(path, 300)}: {type(error).__name__}: {show(str(error), 120)}", ""
    return None
