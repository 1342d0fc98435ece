"""Anybody's detector as a baseline: a command that prints a number, or a server that answers with one.

The picture is written as PNG to a temporary file, or sent as the body of a POST. The number is P(fake) or any that
grows with it, in [0, 1]. A failure or timeout is the error of that one picture (``baselines.scored``).

    Command("theirs", ["python", "their_detector.py", "{path}"], timeout=60)
    Server("theirs", "http://127.0.0.1:9000", "/score", key="score")
"""

from __future__ import annotations

import io
import math
import subprocess
import tempfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from internvl_detect.data.findings import show
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.http_calls import Body, Caller


class External:
    """``ask`` turns a PNG's bytes into a number, or raises; everything else of a baseline is here."""

    fits = False

    def __init__(self, name: str, ask: Callable[[bytes], float]) -> None:
        self.name, self._ask = name, ask

    def fit(
        self, pictures: Iterable[PILImage.Image], fake: Sequence[int], groups: Sequence[Hashable] | None = None
    ) -> None:
        """Nothing to learn here."""

    def scores(self, pictures: Sequence[PILImage.Image]) -> list[float]:
        """The answers. Raises DataError for one that is no number in [0, 1], and what ``ask`` raises."""
        found = []
        for picture in pictures:
            png = io.BytesIO()
            picture.save(png, "PNG", compress_level=1)
            value = self._ask(png.getvalue())
            if not 0 <= value <= 1:
                raise DataError(f"{self.name} answered {value}", expected="a number from 0 to 1")
            found.append(value)
        return found

    def maps(self, pictures: Sequence[PILImage.Image]) -> list[np.ndarray] | None:
        """None: only numbers are asked for."""


def Command(name: str, command: Sequence[str], *, timeout: float = 60.0) -> External:
    """Runs ``command`` without a shell for each picture, "{path}" being its file; the last word printed is the score.

    Raises ConfigError where no argument has "{path}".
    """
    if not any("{path}" in part for part in command):
        raise ConfigError(f"the command of {name}", expected="an argument with {path}")

    def ask(png: bytes) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "picture.png")
            path.write_bytes(png)
            words = [part.replace("{path}", str(path)) for part in command]
            try:
                run = subprocess.run(words, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False)
            except subprocess.TimeoutExpired:
                raise DataError(f"{name} took more than {timeout:g} s") from None
            except OSError as error:
                raise DataError(f"{name} cannot be run ({error})") from None
        if run.returncode:
            raise DataError(f"{name} ended with {run.returncode}: {show(run.stderr.decode('utf-8', 'replace'), 200)}")
        return _number(name, (run.stdout.split() or [b""])[-1].decode("utf-8", "replace"))

    return External(name, ask)


def Server(name: str, url: str, target: str, *, key: str = "score", timeout: float = 60.0) -> External:
    """POSTs the PNG to ``url`` + ``target``; the answer is a JSON object whose ``key`` is the score."""
    caller = Caller(url, timeout=timeout, retries=1)

    def ask(png: bytes) -> float:
        answer = caller.call("POST", target, Body(lambda: [png], len(png), "image/png"))
        return _number(name, answer.json().get(key))

    return External(name, ask)


def _number(name: str, said: object) -> float:
    try:
        value = float(said) if isinstance(said, str | int | float) else math.nan
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise DataError(f"{name} answered {show(str(said), 80)}", expected="a number from 0 to 1")
    return value
