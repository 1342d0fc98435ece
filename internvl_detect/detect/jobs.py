"""Files from tiles to log odds by the model in this process: grouped, asked, followed up for kind and words.

Between ``detector`` (which opens files and forms verdicts) and ``model.answer`` (which runs one batch).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from internvl_detect.detect.interface import Job, Shown, looks_fake
from internvl_detect.errors import CheckpointError, IvdetectError, ResourceError
from internvl_detect.model.answer import Answerer, Prefilled, Request
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.checkpoint import LoadedModel
from internvl_detect.model.prompts import encode_question

PADDED_AT_MOST = 0.8  # the shortest prompt of a batch is at least this share of its longest


class Asker:
    """Asks a model about jobs, batch by batch; answers in words have at most ``word_tokens`` tokens."""

    def __init__(self, loaded: LoadedModel, calibration: Calibration, word_tokens: int = 64) -> None:
        self.answerer, self.calibration, self.word_tokens = Answerer(loaded), calibration, word_tokens

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

    def ask(self, jobs: Sequence[Job], explain: bool) -> None:
        """All jobs in as few forwards as may be; where one of them fails, each alone."""
        try:
            self._ask_together(jobs, explain)
        except IvdetectError as error:
            if len(jobs) == 1:
                jobs[0].error = error
                return
            for job in jobs:
                self.ask([job], explain)

    def _ask_together(self, jobs: Sequence[Job], explain: bool) -> None:
        units = [(job, at) for job in jobs for at in range(len(job.requests))]
        for job in jobs:
            job.odds = [0.0] * len(job.requests)
        limit = max((len(job.requests[0].tiles) for job in jobs), default=1) * max(len(jobs), 1)
        for group in groups_of(units, limit):
            self._ask_group(group, explain)
        for job in jobs:  # a clip's words are about its worst frame, which is known only now
            if job.media.kind == "video":
                began = time.perf_counter()
                if explain or looks_fake(job, self.calibration):
                    self._follow_up(self.answerer.prefill([job.requests[job.worst_frame()]]), [job], explain)
                    job.timings["words_s"] = job.timings.get("words_s", 0.0) + time.perf_counter() - began
        if explain:
            self._answer_own([job for job in jobs if job.own is not None])

    def _answer_own(self, jobs: list[Job]) -> None:
        """Words for files that have a question of their own."""
        if not jobs:
            return
        began = time.perf_counter()
        try:
            answers = self.answerer.words(self.answerer.prefill([job.own for job in jobs if job.own]), self.word_tokens)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if len(jobs) == 1:
                raise _too_large(jobs[0]) from error
            half = len(jobs) // 2
            self._answer_own(jobs[:half])
            self._answer_own(jobs[half:])
            return
        for job, words in zip(jobs, answers, strict=True):
            job.words = words
            job.timings["words_s"] = job.timings.get("words_s", 0.0) + (time.perf_counter() - began) / len(jobs)

    def _ask_group(self, group: list[tuple[Job, int]], explain: bool) -> None:
        began = time.perf_counter()
        pictures = [row for row, (job, at) in enumerate(group) if job.roles[at] == "picture"]
        try:
            state = self.answerer.prefill([job.requests[at] for job, at in group], keep_cache=bool(pictures))
        except (torch.OutOfMemoryError, MemoryError) as error:
            if len(group) == 1:
                raise _too_large(group[0][0]) from error
            half = len(group) // 2
            self._ask_group(group[:half], explain)
            self._ask_group(group[half:], explain)
            return
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
            job.timings["model_s"] = job.timings.get("model_s", 0.0) + spent
        began = time.perf_counter()
        if pictures:
            rows = pictures if explain else [r for r in pictures if looks_fake(group[r][0], self.calibration)]
            if rows:
                jobs = [group[r][0] for r in rows]
                self._follow_up(state.select(rows) if len(rows) < len(group) else state, jobs, explain)
                spent = (time.perf_counter() - began) / len(rows)
                for job in jobs:
                    job.timings["words_s"] = spent

    def _follow_up(self, state: Prefilled, jobs: list[Job], explain: bool) -> None:
        """Kind of fake for those that look fake, and words when asked for, from one prefilled batch."""
        fakes = [row for row, job in enumerate(jobs) if looks_fake(job, self.calibration)]
        for row, kind in zip(fakes, self.answerer.kinds(state, fakes), strict=True):
            jobs[row].kind_of_fake = kind
        if explain and any(job.own is None for job in jobs):
            for job, words in zip(jobs, self.answerer.words(state, self.word_tokens), strict=True):
                job.words = words


def _too_large(job: Job) -> ResourceError:
    advice = "use fewer tiles (--max-tiles), fewer frames, or --dtype bfloat16"
    return ResourceError(f"memory ran out on {job.name}", do=advice)


def groups_of(units: list[tuple[Job, int]], max_tiles: int) -> Iterator[list[tuple[Job, int]]]:
    """Requests of like length together, as many as ``max_tiles`` tiles hold; pictures keep to batches of their own.

    No prompt is padded by more than a fifth: padding costs what tokens cost, and a few pictures fill a device as well.
    """
    order = sorted(units, key=lambda u: (u[0].roles[u[1]] != "picture", -len(u[0].requests[u[1]].input_ids)))
    group: list[tuple[Job, int]] = []
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
