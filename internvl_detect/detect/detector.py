"""The main job: a picture or clip in, a Verdict out; one at a time, or many with decoding and model overlapped.

    from internvl_detect import Detector
    detector = Detector.from_pretrained("nano")
    print(detector.detect("photo.jpg", explain=True))

Not here: the model (``model``), reading files (``media``), showing verdicts (``report``).
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from internvl_detect.detect.aggregate import synthetic_stretch
from internvl_detect.detect.jobs import Asker, Job, score_of
from internvl_detect.detect.question_rows import Asked
from internvl_detect.errors import EXIT_INTERNAL, ConfigError, IvdetectError, MediaError
from internvl_detect.media.cuts import Cut, CutPlan, cut_media, open_media
from internvl_detect.media.image import Limits
from internvl_detect.media.source import name_of
from internvl_detect.media.tiles import TileSettings
from internvl_detect.media.video import VideoLimits
from internvl_detect.model.answer import Answerer, Request
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.checkpoint import LoadedModel, load_base
from internvl_detect.model.prompts import IMAGE_QUESTION, VIDEO_QUESTION, encode_question
from internvl_detect.verdict import Failure, Frame, Label, Region, Verdict

Media = str | Path | bytes | BinaryIO


class Detector:
    """A loaded model with its settings and calibration, ready to judge."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        tiles: TileSettings | None = None,
        calibration: Calibration | None = None,
        limits: Limits | None = None,
        video_limits: VideoLimits | None = None,
        question: str | None = None,
        word_tokens: int = 64,
    ) -> None:
        self.loaded = loaded
        self.answerer = Answerer(loaded)
        self.tiles = tiles or loaded.settings.tiles
        if self.tiles.tile_px != loaded.tile_px:
            raise ConfigError(
                f"tiles of {self.tiles.tile_px} px", expected=f"{loaded.tile_px} px, the input of {loaded.name}"
            )
        self.calibration = calibration or Calibration.from_dict(loaded.settings.calibration)
        self.asker = Asker(self.answerer, self.calibration, word_tokens)
        self.limits, self.video_limits = limits, video_limits
        if question is not None and not question.strip():
            raise ConfigError("the question is empty", expected="a sentence", do="leave it out for the standard one")
        self.image_question, self.video_question = question or IMAGE_QUESTION, question or VIDEO_QUESTION

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path = "nano",
        adapter: str | Path | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        attn: str = "sdpa",
        quantize: str | None = None,
        max_tiles: int | None = None,
        tile_mode: str | None = None,
        **options: Any,
    ) -> Detector:
        """Load ``base`` ("nano" is the embedded model) with ``adapter``; see ``load_base`` for the rest.

        ``max_tiles`` and ``tile_mode`` override what is stored with the adapter. ``question`` replaces the standard
        ones; its answer "yes" must mean fake. Raises CheckpointError, and ConfigError for settings that do not fit.
        """
        loaded = load_base(base, adapter=adapter, dtype=dtype, device=device, attn=attn, quantize=quantize)
        change: dict[str, Any] = {"max_tiles": max_tiles, "mode": tile_mode}
        tiles = dataclasses.replace(loaded.settings.tiles, **{k: v for k, v in change.items() if v is not None})
        return cls(loaded, tiles=tiles, **options)

    def detect(self, media: Media, *, explain: bool = False, frames: int = 8, regions: bool = False) -> Verdict:
        """Judge one picture or clip, given as a path, bytes or a binary file.

        ``explain`` adds the model's words (for a clip: about its most suspicious frame); ``frames`` is how many frames
        of a clip are looked at; ``regions`` asks about every tile of a picture alone and gives the suspicious ones.
        Raises MediaError for what cannot be read.
        """
        job = self._open(media, frames, regions)
        self.asker.ask([job], explain)
        return self._verdict(job)

    def detect_many(
        self,
        paths: Iterable[str | Path | Asked | Failure],
        *,
        explain: bool = False,
        frames: int = 8,
        regions: bool = False,
        batch_size: int = 8,
        workers: int = 2,
    ) -> Iterator[Verdict | Failure]:
        """Judge many files, in their order; a bad one becomes a Failure and the rest goes on.

        An Asked has a question of its own, which the words answer; the score is that of the standard question. A
        Failure is passed on in its place.
        ``workers`` threads decode ahead while the model works on up to ``batch_size`` files at a time.
        """
        if batch_size < 1 or workers < 1:
            raise ConfigError(f"batch_size {batch_size}, workers {workers}", expected="at least 1 each")
        source = iter(paths)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        waiting: deque[tuple[str, Future[Job | Failure]]] = deque()

        def read_ahead() -> None:
            while len(waiting) < 2 * batch_size:
                try:
                    path = next(source)
                except StopIteration:
                    return
                if isinstance(path, Failure):
                    waiting.append((path.path, Future()))
                    waiting[-1][1].set_result(path)
                    continue
                asked = path if isinstance(path, Asked) else Asked(str(path))
                own = asked.own if explain else ""
                waiting.append((asked.path, pool.submit(self._open, asked.path, frames, regions, own)))

        try:
            read_ahead()
            while waiting:
                batch: list[Job | Failure] = []
                while waiting and len(batch) < batch_size:
                    name, future = waiting.popleft()
                    batch.append(_outcome(name, future))
                    read_ahead()
                yield from self.judge(batch, explain)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def judge(self, batch: Sequence[Job | Failure], explain: bool) -> list[Verdict | Failure]:
        """Ask the model about jobs together; the verdicts in their order, failures passed on in their places."""
        jobs = [job for job in batch if isinstance(job, Job)]
        failed: dict[int, Failure] = {}
        try:
            self.asker.ask(jobs, explain)
        except IvdetectError:  # one of them; each is asked alone, so that only that one fails
            for job in jobs:
                try:
                    job.odds.clear()
                    self.asker.ask([job], explain)
                except IvdetectError as error:
                    failed[id(job)] = Failure(job.name, str(error), error.exit_code)
        out: list[Verdict | Failure] = []
        for item in batch:
            out.append(failed.get(id(item)) or (self._verdict(item) if isinstance(item, Job) else item))
        return out

    def _open(self, media: Media, frames: int, regions: bool, own: str = "") -> Job:
        """Decode one file and cut its tiles; runs in a thread. ``own``: a question of its own, for the words."""
        began = time.perf_counter()
        opened = open_media(media, frames=frames, limits=self.limits, video_limits=self.video_limits)
        decoded = time.perf_counter()
        job = self.job_of(name_of(media), cut_media(opened, self.plan(frames, regions, own)), own)
        job.timings = {"open_s": decoded - began, "tile_s": time.perf_counter() - decoded}
        return job

    def plan(self, frames: int, regions: bool, own: str = "") -> CutPlan:
        """How a file is to be cut for this model; ``own`` as for ``job_of``."""
        whole = self.loaded.settings.clip_score == "prompt" or bool(own)
        return CutPlan(self.tiles, self.loaded.settings.frame_tiles, frames, regions, whole)

    def job_of(self, name: str, cut: Cut, own: str = "") -> Job:
        """What the model is asked about a file that was cut by ``plan``; ``own`` is a question of the file's own."""
        job = Job(name, cut, [], [], [], {})
        if cut.kind == "image":
            pixels = cut.parts[0]
            if own:
                job.own = Request(self._encode(own, [len(pixels)], "image"), pixels)
            job.requests = [self._question(pixels), *(self._question(pixels[at : at + 1]) for at in cut.alone)]
            job.roles = ["picture", *("tile" for _ in cut.alone)]
            job.boxes = list(cut.boxes)
            return job
        if cut.whole:
            counts, together = [len(part) for part in cut.whole], np.concatenate(cut.whole)
            if self.loaded.settings.clip_score == "prompt":
                job.requests.append(Request(self._encode(self.video_question, counts, "video"), together))
                job.roles.append("clip")
            if own:
                job.own = Request(self._encode(own, counts, "video"), together)
        job.requests += [self._question(part) for part in cut.parts]
        job.roles += ["frame"] * len(cut.parts)
        return job

    def _question(self, pixels: Any) -> Request:
        return Request(self._encode(self.image_question, [len(pixels)], "image"), pixels)

    def _encode(self, question: str, tiles: list[int], kind: str) -> list[int]:
        settings = self.loaded.settings
        return encode_question(
            self.answerer.tokenizer,
            question,
            tiles_per_image=tiles,
            tokens_per_tile=self.loaded.tokens_per_tile,
            kind=kind,
            system=settings.system_message,
            video_last_newline=settings.video_last_newline,
        )

    def _verdict(self, job: Job) -> Verdict:
        score = score_of(job)
        probability = self.calibration.probability(score)
        label: Label = job.kind_of_fake or "real"  # type: ignore[assignment]
        notes = list(job.media.notes)
        if self.loaded.settings.about:
            notes.insert(0, self.loaded.settings.about)
        if not self.calibration.fitted:
            notes.append("not calibrated: the probability is the raw score and the thresholds are defaults")
        frames: tuple[Frame, ...] = ()
        stretch = None
        if job.media.kind == "video":
            frames = _frames(job)
            stretch = synthetic_stretch(frames) if probability >= self.calibration.low else None
        return Verdict(
            path=job.name,
            kind=job.media.kind,
            score=score,
            probability=probability,
            decision=self.calibration.decide(probability),
            label=label,
            model=self.loaded.name,
            timings={k: round(v, 6) for k, v in job.timings.items()} | {"total_s": round(sum(job.timings.values()), 6)},
            calibrated=self.calibration.fitted,
            words=job.words,
            frames=frames,
            stretch=stretch,
            regions=self._regions(job),
            notes=tuple(notes),
            width=job.media.width,
            height=job.media.height,
            sha256=job.media.sha256,
        )

    def _regions(self, job: Job) -> tuple[Region, ...]:
        scores = job.scores("tile")
        found = [Region(box, score) for box, score in zip(job.boxes, scores, strict=True)]
        return tuple(sorted((r for r in found if self.calibration.probability(r.score) >= 0.5), key=lambda r: -r.score))


def _frames(job: Job) -> tuple[Frame, ...]:
    scores = job.scores("frame")
    return tuple(Frame(*each) for each in zip(job.media.indices, job.media.times_s, scores, strict=True))


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
