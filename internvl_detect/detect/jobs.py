"""Files from tiles to log odds by the model in this process: grouped, asked, followed up for kind, words and masks.

Between ``detector`` (which opens files and forms verdicts) and ``model.answer`` (which runs one batch). A conversation
stays in one cache: the standard question, then the one for reasons, then the one whose answer is ``<SEG>``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from internvl_detect.detect.interface import Job, Mark, Wanted, answer_of, looks_fake, reason_question, to_draw
from internvl_detect.errors import CheckpointError, IvdetectError, ResourceError
from internvl_detect.media.cuts import Shown, of_a_frame, own_pictures
from internvl_detect.model.answer import Answerer, Prefilled, Request, Tell
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.checkpoint import LoadedModel
from internvl_detect.model.mask_adapter import drawing
from internvl_detect.model.prompts import encode_question, encode_turns
from internvl_detect.model.seg import seg_id, seg_turn
from internvl_detect.model.settings import AdapterSettings
from internvl_detect.questions import IMAGE_QUESTION, WORD_TOKENS

PADDED_AT_MOST = 0.8  # the shortest prompt of a batch is at least this share of its longest
NO_MEMORY = (torch.OutOfMemoryError, MemoryError)
Unit = tuple[Job, int]  # a job and the number of one of its requests


class Asker:
    """Asks a model about jobs, batch by batch; answers in words have at most ``word_tokens`` tokens."""

    def __init__(self, loaded: LoadedModel, calibration: Calibration, word_tokens: int = WORD_TOKENS) -> None:
        self.answerer, self.calibration, self.word_tokens = Answerer(loaded), calibration, word_tokens
        self.has_seg, self.draws_apart = seg_id(loaded) is not None, loaded.mask_settings is not None

    def question(self, text: str, shown: Sequence[Shown], *, video: bool = False) -> Request:
        """Token ids and tiles; see ``Asks``."""
        pixels = [s.tiles.pixels for s in shown]
        ids = self.encode(text, [len(p) for p in pixels], video=video)
        return Request(ids, np.concatenate(pixels) if len(pixels) > 1 else pixels[0])

    def encode(self, text: str, tiles: Sequence[int], *, video: bool = False) -> list[int]:
        """The prompt of one question about pictures, or the frames of a clip, of so many tiles each."""
        loaded = self.answerer.loaded
        return encode_question(
            self.answerer.tokenizer,
            text,
            tiles_per_image=tiles,
            tokens_per_tile=loaded.tokens_per_tile,
            kind="video" if video else "image",
            system=loaded.settings.system_message,
            video_last_newline=loaded.settings.video_last_newline,
        )

    def ask(self, jobs: Sequence[Job], wanted: Wanted) -> None:
        """All jobs in as few forwards as may be; where one of them fails, each alone."""
        try:
            self._ask_together(jobs, wanted)
        except IvdetectError as error:
            if len(jobs) == 1:
                jobs[0].error = error
                return
            for job in jobs:
                self.ask([job], wanted)

    def _ask_together(self, jobs: Sequence[Job], wanted: Wanted) -> None:
        units = [(job, at) for job in jobs for at in range(len(job.requests))]
        for job in jobs:
            job.odds = [0.0] * len(job.requests)
        limit = max((len(job.requests[0].tiles) for job in jobs), default=1) * max(len(jobs), 1)
        for group in groups_of(units, limit):
            self._ask_group(group, wanted)
        for job in jobs:  # a clip's words are about its worst frame, which is known only now
            if job.media.kind == "video":
                self._follow_clip(job, wanted)
        if wanted.explain:
            self._answer_own([job for job in jobs if job.own is not None], wanted)

    def _answer_own(self, jobs: list[Job], wanted: Wanted) -> None:
        """Words for files that have a question of their own."""
        if not jobs:
            return
        began = time.perf_counter()
        try:
            state = self.answerer.prefill([job.own for job in jobs if job.own])
            answers = self.answerer.words(state, self.word_tokens, _tell(wanted, len(jobs)))
        except NO_MEMORY as error:
            if len(jobs) == 1:
                raise _too_large(jobs[0]) from error
            half = len(jobs) // 2
            self._answer_own(jobs[:half], wanted)
            self._answer_own(jobs[half:], wanted)
            return
        for job, words in zip(jobs, answers, strict=True):
            job.words = words
            job.add_s("words_s", (time.perf_counter() - began) / len(jobs))

    def _ask_group(self, group: list[Unit], wanted: Wanted) -> None:
        try:
            self._ask_batch(group, wanted)
        except NO_MEMORY as error:
            if len(group) == 1:
                raise _too_large(group[0][0]) from error
            half = len(group) // 2
            self._ask_group(group[:half], wanted)
            self._ask_group(group[half:], wanted)

    def _ask_batch(self, group: list[Unit], wanted: Wanted) -> None:
        began = time.perf_counter()
        pictures = [row for row, (job, at) in enumerate(group) if job.roles[at] == "picture"]
        state = self.answerer.prefill([job.requests[at] for job, at in group], keep_cache=bool(pictures))
        odds = state.log_odds.tolist()
        spent = (time.perf_counter() - began) / len(group)
        for (job, at), value in zip(group, odds, strict=True):
            if value != value:
                raise CheckpointError(
                    f"the model's answer for {job.name} is not a number",
                    expected="finite weights, and a dtype that holds them",
                    do="use --dtype float32 or bfloat16; else download the weights again",
                )
            job.odds[at] = value
            job.add_s("model_s", spent)
        all_of_them = wanted.explain or self._marks(wanted)
        rows = pictures if all_of_them else [r for r in pictures if looks_fake(group[r][0], self.calibration)]
        if rows:
            chosen = state.select(rows) if len(rows) < len(group) else state
            self._follow_up(chosen, [group[r] for r in rows], wanted)

    def _follow_clip(self, job: Job, wanted: Wanted) -> None:
        """Kind and words of the worst frame, and marks on the frames that get a mask."""
        worst, marked = job.worst_frame(), []
        if self._marks(wanted):
            marked = [(job, job.looked[k]) for k in to_draw(job, self.calibration)]
        try:
            if wanted.explain or looks_fake(job, self.calibration):
                began = time.perf_counter()
                state = self.answerer.prefill([job.requests[worst]])
                job.add_s("words_s", time.perf_counter() - began)
                self._follow_up(state, [(job, worst)], Wanted(wanted.explain, False, wanted.language, wanted.tell))
            if marked and self.draws_apart:
                self._mark_apart(marked)
            elif marked:
                state = self.answerer.prefill([job.requests[at] for _, at in marked])
                self._mark(state, marked, [answer_of(job.fused(at)) for job, at in marked])
        except NO_MEMORY as error:
            raise _too_large(job) from error

    def _marks(self, wanted: Wanted) -> bool:
        return wanted.mask and self.has_seg

    def _follow_up(self, state: Prefilled, units: list[Unit], wanted: Wanted) -> None:
        """Kind of fake for those that look fake, then words and marks where they are wanted, from one batch."""
        began = time.perf_counter()
        jobs = [job for job, _ in units]
        fakes = [row for row, job in enumerate(jobs) if looks_fake(job, self.calibration)]
        for row, kind in zip(fakes, self.answerer.kinds(state, fakes), strict=True):
            jobs[row].kind_of_fake = kind
        answers: Sequence[str | Sequence[int]] = [answer_of(job.fused(at)) for job, at in units]
        if wanted.explain and any(job.own is None for job in jobs):
            asked = [reason_question(job, at, wanted) for job, at in units]
            if asked[0] is not None:
                encode, tokens = encode_turns, self.answerer.tokenizer
                turns = [encode(tokens, said, text or "") for said, text in zip(answers, asked, strict=True)]
                state = self.answerer.follow(state, turns)
            answers = self.answerer.said(state, self.word_tokens, _tell(wanted, len(jobs)))
            for job, ids in zip(jobs, answers, strict=True):
                job.words = self.answerer.text(ids)
        for job in jobs:
            job.add_s("words_s", (time.perf_counter() - began) / len(jobs))
        if self._marks(wanted) and self.draws_apart:
            self._mark_apart(units)
        elif self._marks(wanted):
            self._mark(state, units, answers)

    def _mark(self, state: Prefilled, units: list[Unit], answers: Sequence[str | Sequence[int]]) -> None:
        """Let the conversation come to ``<SEG>``, and keep what a mask is drawn from."""
        began = time.perf_counter()
        state = self.answerer.follow(state, [seg_turn(self.answerer.loaded, answer) for answer in answers])
        for row, (job, at) in enumerate(units):
            job.marks[at] = Mark(state.hidden[row], state.tiles[row][: len(job.tile_boxes[at])])
            job.add_s("mask_s", (time.perf_counter() - began) / len(units))

    def _mark_apart(self, units: list[Unit]) -> None:
        """The same where another adapter draws: it reads the pictures anew, in its own tiles, up to its ``<SEG>``."""
        began = time.perf_counter()
        loaded = self.answerer.loaded
        settings: AdapterSettings = loaded.mask_settings  # type: ignore[assignment]
        requests, boxes = [], []
        for job, at in units:
            clip = job.roles[at] == "frame"
            tiles = of_a_frame(settings.tiles, settings.frame_tiles) if clip else settings.tiles
            shown = Shown(own_pictures(job.media)[job.looked.index(at)], tiles)
            ids = encode_question(
                self.answerer.tokenizer,
                IMAGE_QUESTION,
                tiles_per_image=[len(shown.tiles)],
                tokens_per_tile=loaded.tokens_per_tile,
                system=settings.system_message,
            )
            requests.append(Request([*ids, *seg_turn(loaded, answer_of(job.fused(at)))], shown.tiles.pixels))
            boxes.append(shown.boxes)
        with drawing(loaded):
            state = self.answerer.prefill(requests, keep_cache=False)
        for row, (job, at) in enumerate(units):
            job.marks[at] = Mark(state.hidden[row], state.tiles[row][: len(boxes[row])], boxes[row])
            job.add_s("mask_s", (time.perf_counter() - began) / len(units))


def _tell(wanted: Wanted, rows: int) -> Tell | None:
    told = wanted.tell
    return None if told is None or rows != 1 else lambda texts: told(texts[0])


def _too_large(job: Job) -> ResourceError:
    advice = "use fewer tiles (--max-tiles), fewer frames, or --dtype bfloat16"
    return ResourceError(f"memory ran out on {job.name}", do=advice)


def groups_of(units: list[Unit], max_tiles: int) -> Iterator[list[Unit]]:
    """Requests of like length together, as many as ``max_tiles`` tiles hold; pictures keep to batches of their own.

    No prompt is padded by more than a fifth: padding costs what tokens cost, and a few pictures fill a device as well.
    """
    order = sorted(units, key=lambda u: (u[0].roles[u[1]] != "picture", -len(u[0].requests[u[1]].input_ids)))
    group: list[Unit] = []
    tiles = 0
    for job, at in order:
        size = len(job.requests[at].tiles)
        first, its = group[0] if group else (job, at)
        changes = (job.roles[at] == "picture") != (first.roles[its] == "picture")
        short = len(job.requests[at].input_ids) < PADDED_AT_MOST * len(first.requests[its].input_ids)
        if group and (changes or short or tiles + size > max_tiles):
            yield group
            group, tiles = [], 0
        group.append((job, at))
        tiles += size
    if group:
        yield group
