"""Files opened ahead of the model, by threads, in their order; what cannot be opened becomes a Failure in its place.

    for item in opened_ahead(paths, open_one, workers=2, ahead=16): ...  # Job or Failure

Not here: how a file is opened (``detector``), judging.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from internvl_detect.detect.interface import Job
from internvl_detect.detect.question_rows import Asked
from internvl_detect.errors import EXIT_INTERNAL, IvdetectError, MediaError
from internvl_detect.verdict import Failure


def opened_ahead(
    paths: Iterable[str | Path | Asked | Failure], opening: Callable[[Asked], Job], *, workers: int, ahead: int
) -> Generator[Job | Failure]:
    """Each file as ``opening`` gives it, up to ``ahead`` of them opened before they are asked for."""
    source = iter(paths)
    waiting: deque[tuple[str, Future[Job | Failure]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def fill() -> None:
        while len(waiting) < ahead:
            try:
                path = next(source)
            except StopIteration:
                return
            if isinstance(path, Failure):
                waiting.append((path.path, Future()))
                waiting[-1][1].set_result(path)
                continue
            asked = path if isinstance(path, Asked) else Asked(str(path))
            waiting.append((asked.path, pool.submit(opening, asked)))

    with contextlib.ExitStack() as at_end:
        at_end.callback(pool.shutdown, wait=False, cancel_futures=True)
        fill()
        while waiting:
            name, future = waiting.popleft()
            item = _outcome(name, future)
            fill()
            yield item


def _outcome(name: str, future: Future[Job | Failure]) -> Job | Failure:
    try:
        return future.result()
    except IvdetectError as error:
        return Failure(name, str(error), error.exit_code)
    except OSError as error:
        wrapped = MediaError(f"{name} cannot be read ({error.strerror or error})", do="check the file")
        return Failure(name, str(wrapped), wrapped.exit_code)
    except (MemoryError, RecursionError) as error:
        wrapped = MediaError(f"{name} cannot be held in memory ({type(error).__name__})", do="use a smaller file")
        return Failure(name, str(wrapped), wrapped.exit_code)
    except Exception as error:  # noqa: BLE001 - one file's bug must not lose the others' verdicts
        return Failure(name, f"a bug in this program: {type(error).__name__}: {error}", EXIT_INTERNAL)
