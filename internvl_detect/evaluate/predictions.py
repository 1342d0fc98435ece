"""Predictions: one row a picture or clip, what was said of it and what is true; read from anyone's file, and stored.

    for row in read_predictions("theirs.jsonl", on_error=print): row.image, row.label, row.score

Three kinds of rows are read: those of ``ivdetect evaluate`` itself; those of ``ivdetect detect --out``; and anyone's
with ``image``, ``label``, ``score`` or FakeShield's ``image``, ``outputs``. Not here: truth that stands in another file
(``truth``), grading (``grade``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_detect.data.findings import did_you_mean, show
from internvl_detect.data.json_stream import read_elements
from internvl_detect.data.jsonl import well_formed
from internvl_detect.data.labels import answer_verity, normalise_label, verity
from internvl_detect.errors import DataError

DECISIONS = ("authentic", "unsure", "fake")
MOST_FRAMES = 100_000
_IMAGE = ("image", "path", "image_path", "img", "file", "filename")
_HINT = "a number from 0 (real) to 1 (fake)"
_SAID = ("outputs", "words", "output")


@dataclass(slots=True)
class Prediction:
    """What one system says of one file, with the truth where it is known; empty text where nothing is.

    ``label`` is the true one, canonical; ``score`` P(fake) in [0, 1]; ``decision`` one of DECISIONS. ``mask`` is the
    drawn mask, ``truth_mask`` the true one (files); ``outputs`` the words. ``frames`` are (seconds, score) of a clip,
    ``stretch`` the seconds that the system calls synthetic. ``domain_tag`` is what the system thinks was done.
    ``facts`` are of the file: width, height, format, quality, generator, domain, method, ``words`` (true ones),
    ``stretch_s`` (true), and ``side_px`` where the picture was made alike before it was judged. ``line`` is where the
    row stands in its file.
    """

    image: str
    label: str = ""
    score: float | None = None
    decision: str = ""
    dataset: str = ""
    group_id: str = ""
    mask: str = ""
    truth_mask: str = ""
    outputs: str = ""
    frames: tuple[tuple[float, float], ...] = ()
    stretch: tuple[float, float] | None = None
    error: str = ""
    domain_tag: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    line: int = 0

    @property
    def group(self) -> str:
        """What is drawn whole by the bootstrap: the source's ``group_id``, or the file by itself."""
        return self.group_id or self.image

    @property
    def fake(self) -> int | None:
        """1 fake, 0 real, None where the label is not known."""
        return None if not self.label else int(verity(self.label) == "fake")

    def to_row(self) -> dict[str, Any]:
        """Plain JSON types; what is empty is left out, and ``image`` stands first."""
        row: dict[str, Any] = {"image": self.image}
        for name in ("label", "score", "decision", "dataset", "group_id", "mask", "truth_mask", "outputs"):
            value = getattr(self, name)
            if value not in ("", None):
                row[name] = value
        if self.frames:
            row["frames"] = [{"time_s": t, "score": s} for t, s in self.frames]
        if self.stretch:
            row["stretch"] = list(self.stretch)
        for name in ("error", "domain_tag", "facts"):
            if value := getattr(self, name):
                row[name] = value
        return row


def read_predictions(path: str | Path, *, on_error: Callable[[DataError], None] | None = None) -> Iterator[Prediction]:
    """The rows of a JSONL file, or of one JSON list, one at a time.

    A row that cannot be used (no JSON, NaN, a score outside [0, 1], an unknown label, a file that stood there before)
    raises DataError naming its line, or goes to ``on_error`` and the rest is read on. A row with ``error`` is handed
    on: it is the file's own failure. Raises DataError when the file cannot be read.
    """
    path = Path(path)
    seen: set[int] = set()
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise DataError(f"the predictions {path} are no ordinary file", expected="JSONL")
        with open(path, "rb") as file:
            for element in read_elements(file):
                try:
                    if element.problem:
                        raise ValueError(element.problem, element.hint)
                    row = as_prediction(element.value)
                    key = hash((row.dataset, row.image))
                    if key in seen:
                        raise ValueError(f"{show(row.image)} stands there twice", "keep one row of each file")
                except ValueError as error:
                    found = DataError(f"{path}:{element.line}: {error.args[0]}", do="".join(error.args[1:]))
                    if on_error is None:
                        raise found from None
                    on_error(found)
                    continue
                seen.add(key)
                row.line = element.line
                yield row
    except OSError as error:
        raise DataError(f"the predictions {path} could not be read: {error.strerror or error}") from None


def as_prediction(row: Any) -> Prediction:
    """One row of any of the three kinds. Raises ValueError(problem, hint) for what is none.

    Where a row has both, the calibrated ``probability`` is taken, not the raw ``score``. Without a number and a
    decision the decision is read from the words: by their first word, or by what they claim.
    """
    if not isinstance(row, dict):
        raise ValueError(f"an object is expected, not {show(row)}")
    image = next((row[key] for key in _IMAGE if row.get(key)), None)
    if image is None:
        raise ValueError('no "image"', did_you_mean("image", row) if row else "")
    made = Prediction(_text("image", image))
    for name in ("dataset", "group_id", "mask", "truth_mask", "error", "domain_tag"):
        if value := row.get(name):
            setattr(made, name, _text(name, value))
    made.outputs = _text("outputs", next((row[key] for key in _SAID if row.get(key)), ""))
    if (label := row.get("label")) not in (None, "") and not _is_verdict(row):
        made.label = normalise_label(label) or ""
        if not made.label:
            raise ValueError(f'"label" is {show(label)}', "real, fake, ai_generated, tampered or deepfake; or 0 and 1")
    made.facts = _facts(row.get("facts"))
    if _is_verdict(row):
        made.facts = {k: row[k] for k in ("kind", "width", "height") if row.get(k)} | made.facts
    if made.error:
        return made
    made.score = _score(row)
    made.decision = _decision(row.get("decision"))
    made.frames = _frames(row.get("frames"))
    made.stretch = _stretch(row.get("stretch"))
    if made.score is None and not made.decision:
        made.decision = _claimed(made.outputs)
        if not made.decision:
            hint = "the words do not say either whether it is fake" if made.outputs else _HINT
            raise ValueError('no "score" and no "decision"', hint)
    return made


def _is_verdict(row: Mapping[str, Any]) -> bool:
    """Whether it is a row of ``ivdetect detect``, whose ``label`` is what was said and not what is true."""
    return "model" in row and "probability" in row


def _text(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and name in ("group_id", "dataset"):
        return str(value)
    if not isinstance(value, str) or "\0" in value or not well_formed(value):
        raise ValueError(f'"{name}" is {show(value)}', "text is expected")
    return value


def _score(row: Mapping[str, Any]) -> float | None:
    name = "probability" if row.get("probability") is not None else "score"
    value = row.get(name)
    return None if value is None else _share(name, value)


def _share(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f'"{name}" is {show(value)}', _HINT)
    if not 0 <= value <= 1:  # NaN is not
        raise ValueError(f'"{name}" is {show(value)}', _HINT + "; bring others to it first")
    return float(value)


def _decision(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, str) and value.lower() in DECISIONS:
        return value.lower()
    label = normalise_label(value)
    if label is None:
        raise ValueError(f'"decision" is {show(value)}', "authentic, unsure or fake")
    return "authentic" if label == "real" else "fake"


def _claimed(words: str) -> str:
    from internvl_detect.data.forge.words import facts_of

    said = answer_verity(words)
    fake = facts_of(words).fake if said is None else said == "fake"
    return "" if fake is None else "fake" if fake else "authentic"


def _frames(value: Any) -> tuple[tuple[float, float], ...]:
    if value in (None, [], ()):
        return ()
    if not isinstance(value, list) or len(value) > MOST_FRAMES:
        raise ValueError(f'"frames" is {show(value)}', f"a list of at most {MOST_FRAMES} frames")
    frames = []
    for frame in value:
        if not isinstance(frame, dict):
            raise ValueError(f'"frames" holds {show(frame)}', '{"time_s": 0.0, "score": 0.5} is expected')
        frames.append((_seconds(frame.get("time_s")), _share("frames.score", frame.get("score"))))
    return tuple(frames)


def _stretch(value: Any) -> tuple[float, float] | None:
    if value in (None, [], {}):
        return None
    ends = [value.get("start_s"), value.get("end_s")] if isinstance(value, dict) else value
    if not isinstance(ends, list) or len(ends) != 2:
        raise ValueError(f'"stretch" is {show(value)}', "[first second, last second] is expected")
    start, end = _seconds(ends[0]), _seconds(ends[1])
    if start > end:
        raise ValueError(f'"stretch" is {show(value)}', "the first second comes first")
    return start, end


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value < 1e9:
        raise ValueError(f"{show(value)} where seconds are expected")
    return float(value)


def _facts(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > 100:
        raise ValueError(f'"facts" is {show(value)}', "an object of at most 100 texts and numbers is expected")
    found: dict[str, Any] = {}
    for name, fact in value.items():
        if name == "stretch_s":
            found[name] = _stretch(fact)
        elif fact is None or isinstance(fact, str | int | float):
            if isinstance(fact, str):
                _text(f"facts.{name}", fact)
            found[name] = fact
        else:
            raise ValueError(f'"facts" has {show(name)} as {show(fact)}', "a text or a number is expected")
    return found


def value_of(row: Any, name: str) -> Any:
    """A field of a row that may be an object or a mapping; None where it has none."""
    return row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)
