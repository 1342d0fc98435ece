"""From one file of a manifest to its conversations: which questions it is asked, and what they are answered.

    asked = parse_questions(["verdict,explain", "CASIA2=verdict,mask"])
    shares = Shares(); ...; conversations(row, asked, shares, root)

Kinds: ``verdict`` (the standard question; yes or no), ``explain`` (the same, then a question for reasons with a domain
tag in front) and ``mask`` (the same, then where, then ``<SEG>``). These are the turns that detection takes. Neither the
kind of question nor the tag may give the label away: authentic files are asked each kind as often as fake ones, and a
tag is a guess. Not here: files (``one_file``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from internvl_detect.data.conversations.meta import make_row
from internvl_detect.data.conversations.rows import IMAGE, VIDEO
from internvl_detect.data.draws import share_of
from internvl_detect.data.findings import did_you_mean, show
from internvl_detect.data.forge.words import PLACES
from internvl_detect.data.labels import verity
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.errors import ConfigError
from internvl_detect.explanations import read
from internvl_detect.questions import (
    EXPLAIN_QUESTION,
    IMAGE_QUESTION,
    REGION_QUESTION,
    SEG,
    SEGMENT_QUESTION,
    TAG_SENTENCES,
    VIDEO_QUESTION,
    tagged,
)

KINDS = ("verdict", "explain", "mask")
NO_REGION = "Nowhere: no part of it was edited."
_GUESSED = 0.25  # share of tags and places drawn at random
_SUSPECTED = {"ps": "photoshop", "df": "deepfake", "aigc": "aigc_editing"}

Questions = Mapping[str, tuple[str, ...]]


def parse_questions(given: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Kinds by dataset name in lower case; "" stands for all others. From texts like "verdict" and "CASIA2=mask".

    Where nothing is said it is a verdict, and an explanation wherever there are words for one.

    Raises ConfigError for an unknown kind.
    """
    asked: dict[str, tuple[str, ...]] = {}
    for text in given:
        name, equals, kinds = text.rpartition("=")
        words = tuple(dict.fromkeys(word.strip().lower() for word in kinds.split(",") if word.strip()))
        for word in words:
            if word not in KINDS:
                raise ConfigError(f"questions {show(text)}: no kind {show(word)}", do=did_you_mean(word, KINDS))
        if not words or (equals and not name.strip()):
            raise ConfigError(f"questions {show(text)}", expected="like verdict,explain or CASIA2=mask")
        asked[name.strip().lower()] = words
    return {"": ("verdict", "explain"), **asked}


def kinds_of(row: ManifestRow, asked: Questions) -> tuple[str, ...]:
    """What a file may be asked by its dataset."""
    return asked.get(row.dataset.lower(), asked[""])


@dataclass
class Shares:
    """How often each kind of question can be answered, by split, kind and truth; filled by ``count``. ``opens``: some
    file has to be opened for its questions, a clip or a mask."""

    able: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    asked: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    opens: bool = False

    def count(self, row: ManifestRow, asked: Questions) -> None:
        """One file more."""
        truth = verity(row.label)
        self.opens |= row.is_video
        for kind in kinds_of(row, asked):
            able = _has_material(row, kind)
            self.asked[row.split, kind, truth] += 1
            self.able[row.split, kind, truth] += able
            self.opens |= able and kind == "mask"

    def extra(self, split: str, kind: str) -> float:
        """Share of the authentic files without material that is asked all the same, so that authentic files get this
        kind of question as often as fake ones do."""
        fake, real = ((split, kind, truth) for truth in ("fake", "real"))
        wanted = self.able[fake] / max(1, self.asked[fake])
        there = self.able[real] / max(1, self.asked[real])
        return min(1.0, max(0.0, (wanted - there) / max(1e-9, 1 - there)))


def _has_material(row: ManifestRow, kind: str) -> bool:
    if kind == "mask":
        return bool(row.mask) and not row.is_video and verity(row.label) == "fake"
    return kind == "verdict" or bool(row.words.strip())


def questions_for(row: ManifestRow, asked: Questions, shares: Shares, seed: int) -> Iterator[str]:
    """The kinds of question that this file is asked."""
    real = verity(row.label) == "real"
    for kind in kinds_of(row, asked):
        extra = real and share_of(f"{seed}\n{kind}\n{row.path}") < shares.extra(row.split, kind)
        if extra or _has_material(row, kind):
            yield kind


def conversation_of(
    row: ManifestRow, kind: str, media: Mapping[str, Any], *, seed: int = 0, region: str = "", number: str = ""
) -> dict[str, Any]:
    """The annotation row for one ``kind`` of question. ``media``: {"image": path} or {"video": path, "clip": ...}.

    ``region`` is the answer to where (kind "mask"); ``number`` tells apart rows of one file.
    """
    clip = "video" in media
    yes = verity(row.label) == "fake"
    marker = VIDEO if clip else IMAGE
    standard = f"{marker}\n{VIDEO_QUESTION if clip else IMAGE_QUESTION}"
    verdict = "Yes." if yes else "No."
    turns: tuple[str, ...] = (standard, verdict)
    more: dict[str, Any] = {"id": f"{row.path}{number}", "label": row.label, "group_id": row.group}
    if kind == "explain":
        question = EXPLAIN_QUESTION.format(medium="video" if clip else "picture")
        if not clip:
            question = tagged(guessed_tag(row, seed), question, guessed_place(row, seed))
        words = row.words.replace(IMAGE, "").replace(VIDEO, "").strip()
        turns = (standard, verdict, question, f"{verdict} {words}" if words else verdict)
        more["id"] += "#explain"
    elif kind == "mask":
        turns = (standard, verdict, REGION_QUESTION, region if yes else NO_REGION, SEGMENT_QUESTION, SEG)
        more["id"] += "#mask"
        if yes:
            more["mask"] = row.mask
    return make_row(*turns, **media, **more)


def guessed_tag(row: ManifestRow, seed: int) -> str:
    """The domain tag that stands in a file's question: what a tagger that does not know the truth would guess.

    An authentic file gets the tag of its domain, as in FakeShield, whose tagger has no class for authentic; and a
    quarter of all tags, and those of authentic files without a domain, are drawn evenly from all five.
    """
    own = row.domain_tag if verity(row.label) == "fake" else ""
    own = own or _SUSPECTED.get(row.domain, "")
    if own and share_of(f"{seed}\nguess\n{row.path}") >= _GUESSED:
        return own
    tags = list(TAG_SENTENCES)
    return tags[int(share_of(f"{seed}\ntag\n{row.path}") * len(tags))]


def guessed_place(row: ManifestRow, seed: int) -> str:
    """The place that such a tagger would name with a tag of an edit; "" in a quarter of all files.

    A fake file gets mostly the place that its words name, the others one of the nine drawn evenly.
    """
    if share_of(f"{seed}\nplace?\n{row.path}") < _GUESSED:
        return ""
    where = read(row.words).where if verity(row.label) == "fake" else None
    if where is not None and where.place in PLACES and share_of(f"{seed}\nthere\n{row.path}") >= _GUESSED:
        return where.place
    return PLACES[int(share_of(f"{seed}\nplace\n{row.path}") * len(PLACES))]
