"""The main job: a picture or clip in, a Verdict out; one at a time, or many with decoding and model overlapped.

    from internvl_detect import Detector
    detector = Detector.from_pretrained("nano")
    print(detector.detect("photo.jpg", explain=True))

Not here: the model (``model``), reading files (``media``), showing verdicts (``report``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image as PILImage

from internvl_detect.detect.ahead import opened_ahead
from internvl_detect.detect.forming import verdict_of
from internvl_detect.detect.interface import Asks, Job, Wanted
from internvl_detect.detect.question_rows import Asked
from internvl_detect.errors import ConfigError
from internvl_detect.media.cuts import Cut, CutPlan, Precut, Shown, different_frames, of_a_frame, one_tile, open_media
from internvl_detect.media.image import Image, Limits
from internvl_detect.media.provenance import provenance_of
from internvl_detect.media.source import name_of
from internvl_detect.media.tiles import TileSettings
from internvl_detect.media.video import VideoLimits
from internvl_detect.model.calibration import Calibration
from internvl_detect.questions import IMAGE_QUESTION, VIDEO_QUESTION, WORD_TOKENS
from internvl_detect.verdict import Failure, Verdict

Media = str | Path | bytes | BinaryIO


class Detector:
    """A model with its settings and calibration, ready to judge.

    ``loaded`` is a LoadedModel, or whatever else has its ``name``, ``settings`` and ``tile_px``; ``asker`` then makes
    who answers for it, from it, the calibration and the number of tokens of words. ``tagger`` is a DomainTagger, or
    None: then there is no tag, no mask and no fused score. ``mask_name`` names an adapter that only draws.
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
        word_tokens: int = WORD_TOKENS,
        provenance: bool = True,
        trust: str | None = None,
        tagger: Any = None,
        mask_name: str = "",
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
        self.looker: Any = None
        self.mask_name = mask_name
        if tagger is not None:
            from internvl_detect.detect.looking import Looker  # torch

            self.looker = Looker(tagger, loaded, self.calibration)
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
        tagger: str | Path | None = "auto",
        mask_adapter: str | Path | None = None,
        **options: Any,
    ) -> Detector:
        """Load ``base`` ("nano" is the embedded model) with ``adapter``; see ``load_base`` for the rest.

        ``max_tiles`` and ``tile_mode`` override what is stored with the adapter. ``question`` replaces the standard
        ones; its answer "yes" must mean fake. ``provenance`` adds what the file says of its origin as evidence, and
        lets a valid C2PA manifest that says "made by AI" decide; ``trust`` is PEM text of trusted C2PA anchors.
        ``tagger``: a domain tagger's folder, "nano" for the embedded one, None for none; "auto" is the embedded one
        for the embedded model. ``mask_adapter``: another adapter's folder, which draws.
        Raises CheckpointError, and ConfigError for settings that do not fit.
        """
        from internvl_detect.model.checkpoint import load_base
        from internvl_detect.model.embedded import resolve_tagger

        folder = resolve_tagger(tagger, base)

        loaded = load_base(base, adapter=adapter, dtype=dtype, device=device, attn=attn, quantize=quantize)
        if mask_adapter is not None:
            from internvl_detect.model.mask_adapter import add_mask_adapter
            from internvl_detect.model.settings import adapter_label

            add_mask_adapter(loaded, Path(mask_adapter))
            options["mask_name"] = adapter_label(Path(mask_adapter))
        change: dict[str, Any] = {"max_tiles": max_tiles, "mode": tile_mode}
        tiles = dataclasses.replace(loaded.settings.tiles, **{k: v for k, v in change.items() if v is not None})
        return cls(loaded, tiles=tiles, tagger=load_tagger(folder, loaded.device) if folder else None, **options)

    @property
    def draws(self) -> bool:
        """Whether there is a domain tagger, and a mask for whoever wants one."""
        return self.looker is not None and self.looker.draws

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What an answer depends on, beside the file: model, base, calibration and domain tagger."""
        loaded = self.loaded
        facts = {"model": loaded.name, "base": loaded.fingerprint, "calibration": self.calibration.to_dict()}
        if self.looker is not None:
            facts["domain tagger"] = f"{self.looker.tagger.name} {self.looker.tagger.fingerprint}"
        if self.mask_name:
            facts["mask"] = self.mask_name
        return facts

    def detect(
        self,
        media: Media,
        *,
        explain: bool = False,
        frames: int = 8,
        regions: bool = False,
        mask: bool = False,
        language: str | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Verdict:
        """Judge one picture or clip, given as a path, bytes or a binary file.

        ``explain`` adds the model's words (for a clip: about its most suspicious frame), in ``language`` where one is
        named, and ``tell`` hears them while they come; ``frames`` is how many frames of a clip are looked at;
        ``regions`` asks about every tile of a picture alone and gives the suspicious ones; ``mask`` draws where a
        picture, or the frames of a clip that look edited, was changed: it needs a domain tagger.
        Raises MediaError for what cannot be read, ConfigError for a mask without a tagger or an odd language.
        """
        wanted = self._wanted(explain, mask, language, tell)
        job = self._open(media, frames, regions)
        self._ask([job], wanted)
        if job.error is not None:
            raise job.error
        return self._verdict(job, wanted)

    def detect_many(
        self,
        paths: Iterable[str | Path | Asked | Failure],
        *,
        explain: bool = False,
        frames: int = 8,
        regions: bool = False,
        mask: bool = False,
        language: str | None = None,
        tell: Callable[[str], None] | None = None,
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
        wanted = self._wanted(explain, mask, language, tell)

        def opening(asked: Asked) -> Job:
            return self._open(asked.path, frames, regions, asked.own if explain else "")

        with contextlib.closing(opened_ahead(paths, opening, workers=workers, ahead=2 * batch_size)) as opened:
            while batch := list(islice(opened, batch_size)):
                yield from self.judge(batch, wanted)

    def judge(self, batch: Sequence[Job | Failure], wanted: Wanted) -> list[Verdict | Failure]:
        """Ask about jobs together; the verdicts in their order, failures passed on in their places."""
        self._ask([job for job in batch if isinstance(job, Job)], wanted)
        return [self._row(item, wanted) if isinstance(item, Job) else item for item in batch]

    def _wanted(self, explain: bool, mask: bool, language: str | None, tell: Callable[[str], None] | None) -> Wanted:
        if mask and not self.draws:
            raise ConfigError(
                "a mask without a domain tagger that has a map", do="name one: --tagger FOLDER, or --tagger nano"
            )
        if mask:
            _ = self.looker.masker  # one that does not fit is told before the first file
        return Wanted(explain, mask, language, tell)

    def _ask(self, jobs: Sequence[Job], wanted: Wanted) -> None:
        """Tag, verdict, words, mask; ``error`` of each job that fails."""
        if self.looker is not None:
            self.looker.look(jobs, wanted)
        self.asker.ask([job for job in jobs if job.error is None], wanted)
        if self.looker is not None and wanted.mask:
            self.looker.draw(jobs)

    def _row(self, job: Job, wanted: Wanted) -> Verdict | Failure:
        if job.error is not None:
            return Failure(job.name, str(job.error), job.error.exit_code)
        return self._verdict(job, wanted)

    def _verdict(self, job: Job, wanted: Wanted) -> Verdict:
        threshold = self.looker.masker.threshold if job.drawn else None
        return verdict_of(
            job, loaded=self.loaded, calibration=self.calibration, wanted=wanted, mask_threshold=threshold
        )

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
            whole = Shown(opened.rgb, self.tiles)
            self._add(job, [whole], alone=self._alone(job, whole) if regions else [], own=own)
        else:
            alone, single = of_a_frame(self.tiles, self.loaded.settings.frame_tiles), one_tile(self.tiles)
            frames_alone = [Shown(frame, alone) for _, _, frame in different_frames(opened)]
            self._add(job, frames_alone, together=[Shown(frame, single) for frame in opened.frames], own=own)
        job.timings["tile_s"] = time.perf_counter() - decoded
        return job

    def plan(self, frames: int, regions: bool) -> CutPlan:
        """How another process is to cut a file for this model; ``job_of`` takes what it cuts."""
        whole = self.loaded.settings.clip_score == "prompt"
        return CutPlan(
            self.tiles, self.loaded.settings.frame_tiles, frames, regions, whole, own=self.looker is not None
        )

    def job_of(self, name: str, cut: Cut) -> Job:
        """What is asked about a file that another process opened and cut by ``plan``."""
        job = Job(name, cut, [], [], list(cut.boxes), {}, origin=cut.origin)
        parts = [Precut(part, boxes) for part, boxes in zip(cut.parts, cut.tile_boxes, strict=True)]
        alone = [Precut(cut.parts[0][at : at + 1]) for at in cut.alone]
        self._add(job, parts, alone=alone, together=[Precut(part) for part in cut.whole])
        return job

    def _alone(self, job: Job, whole: Shown) -> list[Shown]:
        """The tiles of a picture, to be asked about one by one; their boxes go to the job."""
        found, single = [], one_tile(self.tiles)
        for at, box in enumerate(whole.tiles.boxes_xyxy):
            if len(whole.tiles) == 1 or not whole.tiles.is_thumbnail[at]:
                found.append(Shown(PILImage.fromarray(whole.tiles.pixels[at]), single))
                left, top, right, bottom = box
                job.boxes.append((round(left), round(top), round(right), round(bottom)))
        return found

    def _add(
        self,
        job: Job,
        parts: Sequence[Shown | Precut],
        *,
        alone: Sequence[Shown | Precut] = (),
        together: Sequence[Shown | Precut] = (),
        own: str = "",
    ) -> None:
        """Put a file's requests in order: a clip as a whole (``together``), its picture or frames, tiles ``alone``."""
        clip = job.media.kind == "video"
        if together and self.loaded.settings.clip_score == "prompt":
            job.requests.append(self.asker.question(self.video_question, together, video=True))
            job.roles.append("clip")
        if own:
            job.own = self.asker.question(own, together if clip else parts, video=clip)
        for part in parts:
            job.tile_boxes[len(job.requests)] = part.boxes
            job.requests.append(self.asker.question(self.image_question, [part]))
            job.roles.append("frame" if clip else "picture")
        for tile in alone:
            job.requests.append(self.asker.question(self.image_question, [tile]))
            job.roles.append("tile")


def load_tagger(path: Path, device: Any = "auto") -> Any:
    """The DomainTagger of a folder, or of a file FakeShield's; see their ``load``."""
    if path.is_file():
        from internvl_detect.model.fakeshield_tag import FakeShieldTagger  # torch

        return FakeShieldTagger.load(path, device)
    from internvl_detect.model.domain_tag import DomainTagger  # torch

    return DomainTagger.load(path, device)
