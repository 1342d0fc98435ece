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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image as PILImage

from internvl_detect.detect.aggregate import synthetic_stretch
from internvl_detect.detect.interface import Asks, Job, score_of
from internvl_detect.detect.question_rows import Asked
from internvl_detect.errors import EXIT_INTERNAL, ConfigError, IvdetectError, MediaError
from internvl_detect.media.cuts import Cut, CutPlan, Precut, Shown, different_frames, of_a_frame, one_tile, open_media
from internvl_detect.media.image import Image, Limits
from internvl_detect.media.provenance import provenance_of
from internvl_detect.media.source import name_of
from internvl_detect.media.tiles import TileSettings
from internvl_detect.media.video import Clip, VideoLimits
from internvl_detect.model.calibration import Calibration
from internvl_detect.questions import IMAGE_QUESTION, VIDEO_QUESTION
from internvl_detect.verdict import Failure, Frame, Label, Region, Verdict

Media = str | Path | bytes | BinaryIO


class Detector:
    """A model with its settings and calibration, ready to judge.

    ``loaded`` is a LoadedModel, or whatever else has its ``name``, ``settings`` and ``tile_px``; ``asker`` then makes
    who answers for it, from it, the calibration and the number of tokens of words.
    """

    def __init__(
        self,
        loaded: Any,
        *,
        asker: Callable[[Any, Calibration, int], Asks] | None = None,
        tiles: TileSettings | None = None,
        calibration: Calibration | None = None,
        limits: Limits | None = None,
        video_limits: VideoLimits | None = None,
        question: str | None = None,
        word_tokens: int = 64,
        provenance: bool = True,
        trust: str | None = None,
    ) -> None:
        self.loaded = loaded
        self.tiles = tiles or loaded.settings.tiles
        if self.tiles.tile_px != loaded.tile_px:
            raise ConfigError(
                f"tiles of {self.tiles.tile_px} px", expected=f"{loaded.tile_px} px, the input of {loaded.name}"
            )
        self.calibration = calibration or Calibration.from_dict(loaded.settings.calibration)
        if asker is None:
            from internvl_detect.detect.jobs import Asker as asker  # torch
        self.asker = asker(loaded, self.calibration, word_tokens)
        self.limits, self.video_limits = limits, video_limits
        self.provenance, self.trust = provenance, trust
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
        ones; its answer "yes" must mean fake. ``provenance`` adds what the file says of its origin as evidence, and
        lets a valid C2PA manifest that says "made by AI" decide; ``trust`` is PEM text of trusted C2PA anchors. Raises
        CheckpointError, and ConfigError for settings that do not fit.
        """
        from internvl_detect.model.checkpoint import load_base

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
        if job.error is not None:
            raise job.error
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
        """Ask about jobs together; the verdicts in their order, failures passed on in their places."""
        self.asker.ask([job for job in batch if isinstance(job, Job)], explain)
        return [self._row(item) if isinstance(item, Job) else item for item in batch]

    def _row(self, job: Job) -> Verdict | Failure:
        if job.error is not None:
            return Failure(job.name, str(job.error), job.error.exit_code)
        return self._verdict(job)

    def _open(self, media: Media, frames: int, regions: bool, own: str = "") -> Job:
        """Decode one file and cut its tiles; runs in a thread. ``own``: a question of its own, for the words."""
        began = time.perf_counter()
        limits: dict[str, Any] = {"limits": self.limits, "video_limits": self.video_limits}
        opened = open_media(media, frames=frames, keep_bytes=self.provenance, **limits)
        decoded = time.perf_counter()
        job = Job(name_of(media), opened, [], [], [], {"open_s": decoded - began})
        if self.provenance:
            job.origin = provenance_of(media, opened=opened, trust=self.trust)
            if isinstance(opened, Image):
                job.media = opened = dataclasses.replace(opened, data=b"")
            job.timings["provenance_s"] = time.perf_counter() - decoded
            decoded = time.perf_counter()
        if isinstance(opened, Image):
            self._add_picture(job, opened, regions, own)
        else:
            self._add_clip(job, opened, own)
        job.timings["tile_s"] = time.perf_counter() - decoded
        return job

    def plan(self, frames: int, regions: bool) -> CutPlan:
        """How another process is to cut a file for this model; ``job_of`` takes what it cuts."""
        whole = self.loaded.settings.clip_score == "prompt"
        return CutPlan(self.tiles, self.loaded.settings.frame_tiles, frames, regions, whole)

    def job_of(self, name: str, cut: Cut) -> Job:
        """What is asked about a file that another process opened and cut by ``plan``."""
        job = Job(name, cut, [], [], list(cut.boxes), {}, origin=cut.origin)
        if cut.kind == "image":
            self._add(job, "picture", self.image_question, Precut(cut.parts[0]))
            for at in cut.alone:
                self._add(job, "tile", self.image_question, Precut(cut.parts[0][at : at + 1]))
            return job
        if cut.whole:
            job.requests.append(self.asker.question(self.video_question, [Precut(p) for p in cut.whole], video=True))
            job.roles.append("clip")
        for part in cut.parts:
            self._add(job, "frame", self.image_question, Precut(part))
        return job

    def _add_picture(self, job: Job, image: Image, regions: bool, own: str) -> None:
        whole = Shown(image.rgb, self.tiles)
        if own:
            job.own = self.asker.question(own, [whole])
        self._add(job, "picture", self.image_question, whole)
        if not regions:
            return
        single = one_tile(self.tiles)
        for at, box in enumerate(whole.tiles.boxes_xyxy):
            if len(whole.tiles) == 1 or not whole.tiles.is_thumbnail[at]:
                tile = PILImage.fromarray(whole.tiles.pixels[at])
                self._add(job, "tile", self.image_question, Shown(tile, single))
                left, top, right, bottom = box
                job.boxes.append((round(left), round(top), round(right), round(bottom)))

    def _add_clip(self, job: Job, clip: Clip, own: str) -> None:
        alone = of_a_frame(self.tiles, self.loaded.settings.frame_tiles)
        single = one_tile(self.tiles)
        together = [Shown(frame, single) for frame in clip.frames]
        if self.loaded.settings.clip_score == "prompt":
            job.requests.append(self.asker.question(self.video_question, together, video=True))
            job.roles.append("clip")
        if own:
            job.own = self.asker.question(own, together, video=True)
        for _, _, frame in different_frames(clip):
            self._add(job, "frame", self.image_question, Shown(frame, alone))

    def _add(self, job: Job, role: str, question: str, shown: Shown | Precut) -> None:
        job.requests.append(self.asker.question(question, [shown]))
        job.roles.append(role)

    def _verdict(self, job: Job) -> Verdict:
        score = score_of(job)
        probability = self.calibration.probability(score)
        decision = self.calibration.decide(probability)
        label: Label = job.kind_of_fake or "real"  # type: ignore[assignment]
        notes = [*job.media.notes, *job.notes, *job.origin.notes]
        if reason := job.origin.decides:
            notes.insert(0, decided_by_record(decision, probability))
            decision, label = "fake", reason.details["says"]
        if self.loaded.settings.about:
            notes.insert(0, self.loaded.settings.about)
        if not self.calibration.fitted:
            notes.append("not calibrated: the probability is the raw score and the thresholds are defaults")
        frames, stretch = _frames(job), None
        if frames:
            stretch = synthetic_stretch(frames) if probability >= self.calibration.low else None
        return Verdict(
            path=job.name,
            kind=job.media.kind,
            score=score,
            probability=probability,
            decision=decision,
            label=label,
            model=self.loaded.name,
            timings={k: round(v, 6) for k, v in job.timings.items()} | {"total_s": round(sum(job.timings.values()), 6)},
            calibrated=self.calibration.fitted,
            words=job.words,
            frames=frames,
            stretch=stretch,
            regions=self._regions(job),
            evidence=job.origin.evidence,
            notes=tuple(notes),
            width=job.media.width,
            height=job.media.height,
            sha256=job.media.sha256,
        )

    def _regions(self, job: Job) -> tuple[Region, ...]:
        scores = job.scores("tile")
        found = [Region(box, score) for box, score in zip(job.boxes, scores, strict=True)]
        return tuple(sorted((r for r in found if self.calibration.probability(r.score) >= 0.5), key=lambda r: -r.score))


def decided_by_record(decision: str, probability: float) -> str:
    """The note of a verdict that a signed record decided, with what the pixels alone would have given."""
    return (
        "decided by the file's valid Content Credentials (C2PA), which say that AI made it or a part of it; "
        f"from the pixels alone it would be: {decision}, probability {probability:.3f}"
    )


def _frames(job: Job) -> tuple[Frame, ...]:
    if isinstance(job.media, Image):
        return ()
    times = dict(zip(job.media.indices, job.media.times_s, strict=True))  # a short clip's frames are repeated
    return tuple(Frame(i, t, s) for (i, t), s in zip(times.items(), job.scores("frame"), strict=True))


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
