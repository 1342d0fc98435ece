"""Judge files by a server of this program (``ivdetect serve``), from Python, with the standard library alone.

    from internvl_detect.client import Client
    client = Client("http://127.0.0.1:8000", token=os.environ.get("IVDETECT_TOKEN"))
    print(client.detect("photo.jpg", explain=True).decision)
    job = client.submit(["clip.mp4"])
    for state in client.watch(job.id): print(state.done, "of", state.total)

Files are streamed, never held in memory. Errors are those of ``internvl_detect.errors``. Not here: the transport
(``http_calls``), judging without a server (``detect``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from internvl_detect.errors import ConfigError, ServerError
from internvl_detect.http_calls import Caller, plain
from internvl_detect.uploads import Media, Part, alone, file_name, together
from internvl_detect.verdict import Failure, Verdict, from_row

ENDED = ("done", "failed", "cancelled", "expired")
STATES = ("queued", "running", *ENDED)
MAX_PICTURE = 512 * 2**20


@dataclass(frozen=True)
class JobState:
    """A job as the server told of it: how many of ``total`` files are done, and the rows there are so far."""

    id: str
    state: str
    done: int
    total: int
    stage: str
    results: tuple[Verdict | Failure, ...]
    files: tuple[dict[str, Any], ...] = ()
    created_at: Any = None
    expires_at: Any = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ENDED


class Client:
    """A server of this program. Threads may share it. ``timeout``: seconds that a call may take in all."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 300.0,
        retries: int = 4,
        ca_file: str | None = None,
    ) -> None:
        self.caller = Caller(url, token=token, timeout=timeout, retries=retries, ca_file=ca_file)

    def ready(self) -> bool:
        """Whether the server takes work now; raises ServerError where there is none."""
        try:
            self.caller.call("GET", "/readyz", max_bytes=2**16)
        except ServerError as error:
            if " answers 503" in error.found:
                return False
            raise
        return True

    def detect(
        self,
        media: Media,
        *,
        explain: bool = False,
        mask: bool = False,
        frames: int | None = None,
        language: str | None = None,
        name: str | None = None,
    ) -> Verdict | Failure:
        """Judge one picture or clip: a path, bytes, or a binary file, which is read from where it stands.

        ``mask`` asks for the suspicious regions as well. ``path`` of the row is the path given, or ``name``. Raises
        MediaError for a file that cannot be read or that the server refuses, ConfigError for options and tokens that it
        refuses, ServerError when it cannot be reached, stays busy or answers nonsense.
        """
        shown = name or (str(media) if isinstance(media, str | Path) else "upload")
        query = _options(explain, mask, frames, language) | {"name": file_name(shown)}
        body = alone(Part(media, shown))
        rows = _rows(self.caller.call("POST", _target("/v1/detect", query), body).json(), [shown])
        return rows[0]

    def submit(self, media: Sequence[Media], *, names: Sequence[str] = (), **options: Any) -> JobState:
        """Hand in files as a job, which outlives this process; ``options`` are those of ``detect``."""
        if not media:
            raise ConfigError("a job without files", expected="at least one")
        shown = list(names) or [str(m) if isinstance(m, str | Path) else f"upload{i}" for i, m in enumerate(media)]
        if len(shown) != len(media):
            raise ConfigError(f"{len(shown)} names for {len(media)} files", expected="as many")
        wanted = {"explain": False, "mask": False, "frames": None, "language": None} | options
        body = together([Part(m, n) for m, n in zip(media, shown, strict=True)])
        answer = self.caller.call("POST", _target("/v1/jobs", _options(**wanted)), body, again=False)
        return _job(answer.json())

    def job(self, job_id: str) -> JobState:
        """How a job stands."""
        return _job(self.caller.call("GET", f"/v1/jobs/{_id(job_id)}").json())

    def cancel(self, job_id: str) -> None:
        """End a job; the server forgets it."""
        self.caller.call("DELETE", f"/v1/jobs/{_id(job_id)}")

    def watch(self, job_id: str, *, timeout: float = 24 * 3600.0) -> Iterator[JobState]:
        """Each state that the server tells of, the last one ended; where its events stop short, it is asked again.

        Raises ServerError when the job has not ended after ``timeout`` seconds.
        """
        until = time.monotonic() + timeout
        state = None
        while time.monotonic() < until:
            try:
                for state in self._events(job_id, until):
                    yield state
                    if state.ended:
                        return
            except ServerError:
                if time.monotonic() >= until:
                    break
            now = self.job(job_id)  # tells whether the job or the server is gone
            if now != state:
                yield now
            if now.ended:
                return
            state = now
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        raise ServerError(f"the job {job_id} has not ended in {timeout:.3g} s", do="watch it again, or cancel it")

    def report(self, job_id: str, form: str = "html", *, file: int | None = None) -> bytes:
        """The report of a job, or of one of its files: "html", "json" or "md"."""
        ends = {"html": "", "json": ".json", "md": ".md"}
        if form not in ends:
            raise ConfigError(f"a report as {form!r:.40}", expected="html, json or md")
        return self._fetch(f"/v1/jobs/{_id(job_id)}/report{ends[form]}", {} if file is None else {"file": file})

    def mask(self, job_id: str, file: int = 0) -> bytes:
        """PNG, white where a picture looks changed."""
        return self._fetch(f"/v1/jobs/{_id(job_id)}/mask", {"file": file})

    def overlay(self, job_id: str, file: int = 0) -> bytes:
        """PNG of the picture with what looks changed marked."""
        return self._fetch(f"/v1/jobs/{_id(job_id)}/overlay", {"file": file})

    def preview(self, job_id: str, file: int = 0) -> bytes:
        """JPEG of the picture or of a frame, at most 1024 px."""
        return self._fetch(f"/v1/jobs/{_id(job_id)}/preview", {"file": file})

    def _fetch(self, path: str, query: dict[str, Any]) -> bytes:
        return self.caller.call("GET", _target(path, query), max_bytes=MAX_PICTURE).body

    def _events(self, job_id: str, until: float) -> Iterator[JobState]:
        """The states in a stream of server-sent events."""
        left = max(0.1, until - time.monotonic())
        with self.caller.stream(f"/v1/jobs/{_id(job_id)}/events", timeout=left) as lines:
            data: list[bytes] = []
            for line in lines:
                text = line.rstrip(b"\r\n")
                if text.startswith(b"data:"):
                    data.append(text[5:].strip())
                    if sum(map(len, data)) > 64 * 2**20:
                        raise ServerError("an event of the server is larger than 64 MiB")
                elif not text and data:
                    try:
                        content = json.loads(b"\n".join(data))
                    except (ValueError, RecursionError):
                        raise ServerError("an event of the server is no JSON") from None
                    data = []
                    yield _job(content)


def _options(explain: bool, mask: bool, frames: int | None, language: str | None) -> dict[str, Any]:
    given = {"explain": "true" if explain else None, "mask": "true" if mask else None}
    return {k: v for k, v in (given | {"frames": frames, "language": language}).items() if v is not None}


def _target(path: str, query: dict[str, Any]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _id(job_id: str) -> str:
    if not job_id or job_id in (".", ".."):
        raise ConfigError(f"a job called {job_id!r:.40}", expected="the id that submit gave")
    return quote(job_id, safe="")


def _rows(content: dict[str, Any], names: Sequence[str] | None) -> tuple[Verdict | Failure, ...]:
    """The rows of an answer, each with the name that the file has here."""
    rows = content.get("results") or []
    if not isinstance(rows, list) or (names is not None and len(rows) != len(names)):
        raise ServerError("the server's answer has not a row for each file", expected="the API of this program")
    try:
        return tuple(from_row({**row, "path": names[i]} if names is not None else row) for i, row in enumerate(rows))
    except (ValueError, TypeError) as error:
        raise ServerError(f"the server's answer has a row that is none ({plain(str(error))})") from None


def _job(content: Any) -> JobState:
    if not isinstance(content, dict):
        raise ServerError("the server tells of a job what is no object", expected="the API of this program")
    job_id, state, files = content.get("id"), content.get("state"), content.get("files") or []
    counts = [content.get(k, 0) for k in ("done", "total")]
    good = isinstance(job_id, str) and state in STATES and isinstance(files, list)
    if not good or not all(isinstance(n, int) and 0 <= n < 2**31 for n in counts):
        raise ServerError(f"the server tells of a job that is {state!r:.40}", expected=", ".join(STATES))
    known = tuple(f for f in files if isinstance(f, dict))
    when = (content.get("created_at"), content.get("expires_at"))
    stage = plain(str(content.get("stage") or ""))
    return JobState(str(job_id), str(state), *counts, stage, _rows(content, None), known, *when)
