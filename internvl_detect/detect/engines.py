"""Where ``ivdetect detect`` has its files judged: here, by a server of others, by a server of this program, or on Ray.

All give the same rows; each is opened by ``open_engine`` from the options of the command line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from internvl_detect.detect.question_rows import Asked
from internvl_detect.errors import ConfigError, IvdetectError, ServerError
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.embedded import NAME
from internvl_detect.verdict import Failure, Verdict

File = str | Asked | Failure
IN_FLIGHT = 8  # uploads at once
GONE = 3 * IN_FLIGHT  # so many failures of the server one after another end the run


@dataclass(frozen=True)
class Where:
    """What the command line says of it. ``token_env`` names the environment variable that holds a server's token."""

    backend: str = "local"
    engine: str = "local"
    url: str | None = None
    served_model: str | None = None
    server: str | None = None
    token_env: str | None = None
    timeout: float = 300.0
    ray_workers: int = 0

    def __post_init__(self) -> None:
        if self.backend not in ("local", "openai") or self.engine not in ("local", "ray"):
            raise ConfigError(
                f"--backend {self.backend}, --engine {self.engine}",
                expected="--backend local or openai, --engine local or ray",
            )
        if (self.backend == "openai") != (self.url is not None):
            raise ConfigError("one of --backend openai and --url without the other", expected="both")
        if (self.backend == "openai") + (self.engine == "ray") + (self.server is not None) > 1:
            raise ConfigError("several of --backend openai, --engine ray and --server", expected="one of them")


class Engine(Protocol):
    """Judges files; ``facts`` stand in reports, ``notes`` are said once. ``draws``: whether it can draw masks.
    ``streams``: whether the words of a single file can be heard as they come."""

    name: str
    notes: Sequence[str]
    facts: dict[str, Any]
    draws: bool
    streams: bool

    def rows(
        self, files: Sequence[File], *, batch_size: int, workers: int, **asking: Any
    ) -> Iterator[tuple[int, Verdict | Failure]]:
        """(place of the file in ``files``, its row), each once, as they come.

        ``asking``: explain, frames, regions, mask and language, of ``Detector.detect``; and tell, where it streams.
        """


class OfDetector:
    """A Detector of this process: rows in order."""

    def __init__(self, detector: Any, streams: bool = True) -> None:
        self.draws, self.streams = detector.draws, streams
        self.detector, self.name, self.notes = detector, detector.loaded.name, detector.loaded.notes
        self.facts = detector.facts

    def rows(self, files: Sequence[File], **options: Any) -> Iterator[tuple[int, Verdict | Failure]]:
        """See ``Engine``."""
        yield from enumerate(self.detector.detect_many(files, **options))


class OfServer:
    """A server of this program, by ``client``: ``IN_FLIGHT`` files are on their way at once, rows in order.

    Whether it draws masks or asks about tiles is its own business; regions come, the masks stay there.
    """

    draws, streams = True, False

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        from internvl_detect.client import Client

        self.client = Client(url, token, timeout=timeout)
        self.client.ready()
        self.name, self.notes = self.client.caller.name, ()
        self.facts: dict[str, Any] = {"server": self.name}

    def rows(
        self, files: Sequence[File], *, batch_size: int, workers: int, **asking: Any
    ) -> Iterator[tuple[int, Verdict | Failure]]:
        """See ``Engine``; ``batch_size`` and ``workers`` are the server's business."""
        if asking.pop("language", None) is not None:
            raise ConfigError("--language with --server", expected="the server's own", do="leave it out")
        wanted = {"mask": asking.pop("mask", False) or asking.pop("regions", False)}
        wanted |= {key: asking[key] for key in ("explain", "frames")}
        waiting: deque[tuple[int, Future[Verdict | Failure]]] = deque()
        source = enumerate(files)
        lost = 0
        pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="upload")
        try:
            while True:
                while len(waiting) < 2 * IN_FLIGHT and (item := next(source, None)) is not None:
                    at, file = item
                    waiting.append((at, pool.submit(self._row, file, wanted)))
                if not waiting:
                    return
                at, future = waiting.popleft()
                row = future.result()
                lost = lost + 1 if isinstance(row, Failure) and row.exit_code == ServerError.exit_code else 0
                if lost >= GONE:
                    raise ServerError(f"{lost} files in turn failed at {self.name}: {row.error}", do="--resume later")  # type: ignore[union-attr]
                yield at, row
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _row(self, file: File, wanted: dict[str, Any]) -> Verdict | Failure:
        if isinstance(file, Failure):
            return file
        path = str(file)
        try:
            return self.client.detect(path, **wanted)
        except ConfigError:
            raise  # a token or an option that is refused for every file
        except IvdetectError as error:
            return Failure(path, str(error), error.exit_code)


def open_engine(
    where: Where,
    model: str,
    adapter: str | None,
    calibration: Calibration | None,
    options: dict[str, Any],
) -> Engine:
    """The engine that the options ask for. Raises ConfigError for options that it cannot follow."""
    from internvl_detect.detect.served import open_served, token_of

    if where.server is not None:
        refused = {"--calibration": calibration, "--adapter": adapter, "--question": options.get("question")}
        refused["--mask-adapter"] = options.get("mask_adapter")
        refused["--tagger"] = None if options.get("tagger") == "auto" else options.get("tagger")
        if named := [name for name, value in refused.items() if value is not None]:
            raise ConfigError(f"{named[0]} with --server", expected="the server's own", do="leave it out")
        return OfServer(where.server, token_of(where.token_env), where.timeout)
    if where.backend == "openai":
        if options.get("mask_adapter") is not None:
            raise ConfigError("--mask-adapter with --backend openai", do="draw with --tagger, or with --backend local")
        kept = {k: options[k] for k in ("max_tiles", "question", "word_tokens", "tagger") if k in options}
        detector = open_served(
            where.url or "",
            served_model=where.served_model,
            model=None if model == NAME and not Path(model).is_dir() else model,
            adapter=adapter,
            token=token_of(where.token_env),
            timeout=where.timeout,
            calibration=calibration,
            **kept,
        )
        return OfDetector(detector, streams=False)
    if where.engine == "ray":
        from internvl_detect.detect.engine_ray import OnRay

        return OnRay(where.ray_workers, model, adapter, dict(options) | {"calibration": calibration})
    from internvl_detect.detect.detector import Detector

    return OfDetector(Detector.from_pretrained(model, adapter, calibration=calibration, **options))


def fits(calibration: Calibration | None, engine: Engine, where: Where, file: Path | None) -> str:
    """A sentence when a calibration was fitted on scores of a model with another name than a server's.

    Raises ConfigError when it is another than the model at hand.
    """
    if calibration is None or calibration.model in ("", engine.name):
        return ""
    if where.backend == "openai":
        return f"{file} was fitted on scores of {calibration.model}, and the server serves {engine.name}"
    raise ConfigError(
        f"{file} was fitted on scores of {calibration.model}",
        expected=f"one of {engine.name}",
        do="run 'ivdetect calibrate' with this model",
    )
