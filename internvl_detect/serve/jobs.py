"""Jobs: accepted files are judged in turn, one of each job after the other, while clients may watch, cancel or go away.

What is accepted is in the store before; a restart takes up every file without a row. Not here: HTTP (``api``), judging
(``engine``), tables (``store``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from internvl_detect.errors import EXIT_INTERNAL, EXIT_INTERRUPTED
from internvl_detect.serve.engine import Engine, Options, Order, served
from internvl_detect.serve.settings import Settings
from internvl_detect.serve.store import FINISHED, MOST_TRIES, Store, StoredFile, StoredJob
from internvl_detect.serve.uploads import Upload
from internvl_detect.verdict import Failure

SWEEP_S = 60.0
HEARTBEAT_S = 15.0


class Jobs:
    """The jobs of one server; lives on the event loop."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self.settings, self.store, self.engine = settings, store, engine
        self.most_at_once = 2 * settings.batch_size
        self.waiting = 0  # files without a row
        self._queues: OrderedDict[str, deque[StoredFile]] = OrderedDict()
        self._jobs: dict[str, StoredJob] = {}
        self._stages: dict[tuple[str, int], str] = {}
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._wake, self._stopping = asyncio.Event(), False
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Take up what an earlier server left, and begin."""
        for name in self.store.open_jobs():
            job = self.store.job(name)
            if job is not None:
                self._enqueue(job)
        self._loops = [asyncio.create_task(self._feed()), asyncio.create_task(self._expire())]

    async def submit(self, owner: str, options: Options, uploads: list[Upload]) -> StoredJob:
        """Accept a job; on disk when this returns."""
        files = [(upload.name, upload.sha256, upload.stored) for upload in uploads]
        add = self.store.add_job
        job = await asyncio.to_thread(add, owner, vars(options), files, self.settings.expire_h * 3600)
        self._enqueue(job)
        return job

    async def cancel(self, job: StoredJob) -> None:
        """Give up what is left of a job; its finished rows stay."""
        self._queues.pop(job.id, None)
        tasks = [task for (name, _), task in self._tasks.items() if name == job.id]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        row = Failure("", "cancelled before it was judged", EXIT_INTERRUPTED).to_dict()
        await asyncio.to_thread(self.store.cancel, job.id, row)
        self._jobs.pop(job.id, None)
        self._count()
        self._notify(job.id)

    async def delete(self, job: StoredJob) -> None:
        """Cancel a job and forget it with its results, pictures and uploads."""
        if job.state not in FINISHED:
            await self.cancel(job)
        await asyncio.to_thread(self._forget, job)
        self._notify(job.id)

    def _forget(self, job: StoredJob) -> None:
        self.store.delete(job.id)
        options = Options(**job.options) if job.options else Options()
        for file in job.files:
            same = "SELECT 1 FROM files JOIN jobs ON id = job WHERE sha256 = ? AND owner = ? LIMIT 1"
            if not self.store.read(same, (file.sha256, job.owner)):
                self.engine.cache.drop(self.engine.key(file.sha256, job.owner, options))

    def to_json(self, job: StoredJob, results: bool = True) -> dict[str, Any]:
        """A job as the API gives it; ``results`` with the rows."""
        files = [{"name": f.name, "sha256": f.sha256, "state": self._state(f)} for f in job.files]
        rows = [f.row for f in job.files if f.row is not None]
        stages = {file["state"] for file in files}
        stage = next((s for s in ("judging", "decoding") if s in stages), job.state)
        given = {
            "id": job.id,
            "state": job.state,
            "stage": stage,
            "done": len(rows),
            "total": len(files),
            "created_at": _iso(job.created),
            "expires_at": _iso(job.expires),
            "options": job.options,
            "files": files,
        }
        return {**given, "results": rows} if results else given

    async def watch(self, name: str) -> AsyncIterator[StoredJob | None]:
        """The job now and after every change, until it is finished; None as a sign of life in between."""
        while True:
            event = self._changed.setdefault(name, asyncio.Event())  # before the job is read: no change is missed
            job = await asyncio.to_thread(self.store.job, name)
            if job is None:
                return
            yield job
            if job.state in FINISHED or self._stopping:
                return
            try:
                await asyncio.wait_for(event.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield None

    def hang_up(self) -> None:
        """Let those who watch go, and begin nothing more: the server is to end."""
        self._stopping = True
        self._wake.set()
        for name in list(self._changed):
            self._notify(name)

    async def close(self) -> None:
        """Finish the files that are being judged; the others stay in the store for the next start."""
        self.hang_up()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=self.settings.deadline_s)
        for task in (*self._loops, *self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._loops, *self._tasks.values(), return_exceptions=True)

    def _state(self, file: StoredFile) -> str:
        if file.row is None:
            return self._stages.get((file.job, file.at), "queued")
        if file.row.get("exit_code") == EXIT_INTERRUPTED:
            return "cancelled"
        return "done" if file.row.get("error") is None else "failed"

    def _enqueue(self, job: StoredJob) -> None:
        left = deque(file for file in job.files if file.row is None)
        if left:
            self._jobs[job.id] = job
            self._queues[job.id] = left
        self._count()
        self._wake.set()

    def _count(self) -> None:
        self.waiting = sum(map(len, self._queues.values())) + len(self._tasks)

    async def _feed(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queues and len(self._tasks) < self.most_at_once and not self._stopping:
                name, files = self._queues.popitem(last=False)
                file = files.popleft()
                if files:
                    self._queues[name] = files  # behind the others: a small job does not wait for a large one
                place = name, file.at
                self._tasks[place] = asyncio.create_task(self._run(self._jobs[name], file))
                self._tasks[place].add_done_callback(lambda _, place=place: self._ended(place))

    def _ended(self, place: tuple[str, int]) -> None:
        self._tasks.pop(place, None)
        self._stages.pop(place, None)
        name = place[0]
        if name not in self._queues and not any(job == name for job, _ in self._tasks):
            self._jobs.pop(name, None)
        self._count()
        self._wake.set()

    async def _run(self, job: StoredJob, file: StoredFile) -> None:
        options, place = Options(**job.options), (job.id, file.at)

        def stage(said: str) -> None:
            self._stages[place] = said
            self._notify(job.id)

        tries = await asyncio.to_thread(self.store.start_file, job.id, file.at)
        upload = self.store.uploads / (file.upload or "none")
        if tries > MOST_TRIES:
            error = f"given up: the server ended {MOST_TRIES} times while it was judging this file"
            row = served(Failure("", error, EXIT_INTERNAL).to_dict(), file.name, options.language)
        else:
            try:
                order = Order(file.name, file.sha256, upload, options, job.owner, previews=True, stage=stage)
                row = await self.engine.judge(order)
            except Exception as error:  # noqa: BLE001 - one file's bug must not hold up its job
                words = f"a bug in this program: {type(error).__name__}"
                row = served(Failure("", words, EXIT_INTERNAL).to_dict(), file.name, options.language)
        await asyncio.to_thread(self.store.finish_file, job.id, file.at, row, self.settings.keep)
        self._stages.pop(place, None)
        self._notify(job.id)

    def _notify(self, name: str) -> None:
        event = self._changed.pop(name, None)
        if event is not None:
            event.set()

    async def _expire(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.store.expire)
            await asyncio.sleep(SWEEP_S)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
