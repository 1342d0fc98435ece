"""Ask a server of others (vLLM, LMDeploy, SGLang) that serves the checkpoint, by the OpenAI chat protocol. No torch.

The same system message, question and pictures as ``jobs.Asker`` asks, the score from the first token's log
probabilities, words by a second request. The server cuts pictures into tiles itself, so what can be sent as tiles is:
one tile is a picture of its own size, and tiles without a thumbnail are one strip, which any dynamic tiling cuts where
it was joined. Only a picture with a thumbnail goes as it is. Not here: files, verdicts (``detector``), HTTP
(``http_calls``).
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image as PILImage

from internvl_detect.detect.interface import Job, Shown, Wanted, answer_of, looks_fake, reason_question
from internvl_detect.detect.top_logprobs import TOP, Cut, FirstToken, first_token, listed_tokens
from internvl_detect.errors import ConfigError, IvdetectError, ServerError
from internvl_detect.http_calls import Caller, json_body
from internvl_detect.media.tiles import count_tiles
from internvl_detect.media.video import Clip
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.prompts import encode_question
from internvl_detect.model.settings import AdapterSettings
from internvl_detect.questions import WORD_TOKENS

IN_FLIGHT = 32  # requests under way at once
UNKNOWN_KIND = "fake"


@dataclass
class Served:
    """A checkpoint on a server: what it is asked by, how it wants to be used, and what yes and no look like."""

    caller: Caller
    name: str
    settings: AdapterSettings
    yes: frozenset[str]
    no: frozenset[str]
    tokenizer: Any = None  # of the served checkpoint, where its folder is at hand
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def tile_px(self) -> int:
        return self.settings.tiles.tile_px

    @property
    def tokens_per_tile(self) -> int:
        """Patches of 14 pixels, of which four become one token: every InternVL2."""
        return (self.tile_px // 14) ** 2 // 4


@dataclass(frozen=True)
class Question:
    """One request: text and PNGs in order, how many tiles the server should make of each, and the prompt's tokens."""

    parts: tuple[str | bytes, ...]
    tokens: int | None


class OpenAIAsker:
    """Asks ``served``; see ``interface.Asks``. At most ``IN_FLIGHT`` requests are under way."""

    def __init__(self, served: Served, calibration: Calibration, word_tokens: int = WORD_TOKENS) -> None:
        tiles, frame_tiles = served.settings.tiles, served.settings.frame_tiles
        if tiles.min_tiles != 1:
            raise ConfigError(f"settings with min_tiles {tiles.min_tiles}", expected="1 for a model behind a server")
        if tiles.thumbnail and tiles.mode != "dynamic":
            raise ConfigError(
                "settings with native tiles and a thumbnail, which no server makes",
                expected="dynamic tiles, or native ones without a thumbnail",
                do="judge with --backend local, or train without a thumbnail",
            )
        if tiles.thumbnail and frame_tiles not in (1, tiles.max_tiles):
            raise ConfigError(f"settings with frame_tiles {frame_tiles}", expected=f"1 or {tiles.max_tiles}")
        self.served, self.calibration, self.word_tokens = served, calibration, word_tokens
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="ask")
        self._temperature = 0.0
        self._lock = threading.Lock()

    def question(self, text: str, shown: Sequence[Shown], *, video: bool = False) -> Question:
        """Text and pictures as they will be sent; a newline follows each picture, as servers put it."""
        parts: list[str | bytes] = []
        counts = []
        for number, one in enumerate(shown, 1):
            if video:
                parts.append(f"Frame{number}: ")
            picture, tiles = _to_send(one)
            parts.append(_png(picture))
            counts.append(tiles)
        return Question((*parts, text), self._tokens(text, counts, video))

    def ask(self, jobs: Sequence[Job], wanted: Wanted) -> None:
        """All requests of all jobs at once, then those for words, which come whole and are not told of on the way."""
        units = [(job, at) for job in jobs for at in range(len(job.requests))]
        for job in jobs:
            job.odds = [0.0] * len(job.requests)
        list(self._pool.map(self._score, units))
        good = [job for job in jobs if job.error is None]
        for job in good:
            job.kind_of_fake = UNKNOWN_KIND if looks_fake(job, self.calibration) else None
        if wanted.explain:
            list(self._pool.map(lambda job: self._say(job, wanted), good))
        if len(jobs) > 1 and not good and all(isinstance(job.error, ServerError) for job in jobs):
            models(self.served.caller)  # raises, and so ends the run, when the server is gone

    def _score(self, unit: tuple[Job, int]) -> None:
        job, at = unit
        if job.error is not None:
            return
        began = time.perf_counter()
        try:
            found, note = self._first(job.requests[at])
        except IvdetectError as error:
            job.error = error
            return
        with self._lock:
            job.odds[at] = found.odds
            for said in filter(None, (note, found.note if at == 0 else "")):
                if said not in job.notes:
                    job.notes.append(said)
            job.timings["model_s"] = job.timings.get("model_s", 0.0) + time.perf_counter() - began

    def _first(self, question: Question) -> tuple[FirstToken, str]:
        """The score of one request, and what is to be said of how the server understood it."""
        wanted = {"logprobs": True, "top_logprobs": TOP}
        answer = self._complete(question, 1, self._temperature, wanted)
        try:
            found = first_token(listed_tokens(_choice(answer)), self.served.yes, self.served.no)
        except Cut:
            if self._temperature:
                raise
            # LMDeploy lists what sampling leaves. At 1 that is the model's own distribution, whatever token is drawn.
            answer = self._complete(question, 1, 1.0, wanted)
            found = first_token(listed_tokens(_choice(answer)), self.served.yes, self.served.no)
            self._temperature = 1.0
        return found, self._check(question, answer)

    def _say(self, job: Job, wanted: Wanted) -> None:
        began = time.perf_counter()
        at = job.worst_frame() if isinstance(job.media, Clip) else 0
        why = reason_question(job, at, wanted) if job.own is None else None
        turns = (answer_of(job.fused(at)), why) if why is not None else ()
        try:
            answer = self._complete(job.own or job.requests[at], self.word_tokens, 0.0, {}, turns)
            said = _choice(answer).get("message")
            words = said.get("content") if isinstance(said, dict) else None
            if not isinstance(words, str):
                raise ServerError("the server's answer has no words", expected="choices[0].message.content")
            job.words = words.strip()
        except IvdetectError as error:
            job.error = error
        job.timings["words_s"] = time.perf_counter() - began

    def _complete(
        self,
        question: Question,
        max_tokens: int,
        temperature: float,
        more: dict[str, Any],
        turns: tuple[str, ...] = (),
    ) -> Any:
        """``turns``: what the model answered, and what it is asked then."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64," + base64.b64encode(part).decode("ascii")},
            }
            for part in question.parts
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        roles = ("assistant", "user")
        messages += [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
        if self.served.settings.system_message:
            messages.insert(0, {"role": "system", "content": self.served.settings.system_message})
        body = {"model": self.served.name, "messages": messages, "max_tokens": max_tokens, "temperature": temperature}
        body |= {"top_p": 1.0, "stream": False, **more}
        return self.served.caller.call("POST", "/chat/completions", json_body(body)).json()

    def _tokens(self, text: str, counts: Sequence[int], video: bool) -> int | None:
        """How many tokens the prompt has by our own reckoning; None without the tokenizer."""
        if self.served.tokenizer is None:
            return None
        return len(
            encode_question(
                self.served.tokenizer,
                text,
                tiles_per_image=counts,
                tokens_per_tile=self.served.tokens_per_tile,
                kind="video" if video else "image",
                system=self.served.settings.system_message,
                video_last_newline=True,
            )
        )

    def _check(self, question: Question, answer: Any) -> str:
        """A note when the server made another number of tokens of the prompt than this program would."""
        usage = answer.get("usage")
        counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if question.tokens is None or not isinstance(counted, int) or counted == question.tokens:
            return ""
        apart, tile = counted - question.tokens, self.served.tokens_per_tile
        why = f"{apart / tile:+.0f} tiles" if apart % tile == 0 else "another chat template or tiling"
        return f"the server made {counted} tokens of a prompt of {question.tokens} ({why}): its scores may differ"


def models(caller: Caller) -> list[str]:
    """The names of the models on a server; raises IvdetectError where it cannot be asked."""
    listed = caller.call("GET", "/models", timeout=min(30.0, caller.timeout)).json().get("data")
    names = [m.get("id") for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
    found = [name for name in names if isinstance(name, str)]
    if not found:
        raise ServerError(f"{caller.name} names no model", expected="an address that ends in /v1")
    return found


def _choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ServerError("the server's answer has no choices", expected="a chat completion")
    return choices[0]


def _to_send(shown: Shown) -> tuple[PILImage.Image, int]:
    """A picture of which dynamic tiling makes the tiles of ``shown``, and how many."""
    if shown.settings.thumbnail and (count := count_tiles(*shown.rgb.size, shown.settings)) > 1:
        return shown.rgb, count
    tiles = shown.tiles.pixels
    return PILImage.fromarray(np.concatenate(list(tiles), axis=1)), len(tiles)


def _png(picture: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
