"""One row of an InternVL annotation file: from a line of bytes to a Sample, with everything that is wrong about it.

The four kinds: text only, one image (``image`` a string), several images (a list), one video. As the original training
code does, the text of every turn is stripped, and ``<image>`` or ``<video>`` is put in front of the first question when
one picture or clip is given and no marker is written. Not here: whole files (``index``), opening media (``check``).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from internvl_detect.data.findings import Finding, Level, did_you_mean, show
from internvl_detect.data.jsonl import BadJson, parse, well_formed
from internvl_detect.data.labels import LABELS, Verity, answer_verity, normalise_label, verity
from internvl_detect.data.storage.stores import is_address

T = TypeVar("T")

IMAGE, VIDEO = "<image>", "<video>"

ROLES = {"human": "user", "gpt": "assistant"}
# Names the tokenizer knows as single tokens. In a conversation they stay ordinary text, which is rarely meant.
SPECIAL_TEXTS = (
    *("<IMG_CONTEXT>", "<img>", "</img>", "<|im_start|>", "<|im_end|>", "<|action_start|>", "<|action_end|>"),
    *("<|interpreter|>", "<|plugin|>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<s>", "</s>"),
    *(f"[UNUSED_TOKEN_{n}]" for n in range(141, 147)),
)
MAX_IMAGES = 1000
_AFTER_VIDEO = re.compile(re.escape(VIDEO) + r"[ \t]*\n?")


@dataclass(frozen=True)
class Source:
    """Where rows come from and how their paths are read: one dataset of a meta JSON."""

    dataset: str
    file: str
    root: str
    data_augment: bool = False
    max_tiles: int | None = None
    allow_outside: bool = False


@dataclass(frozen=True)
class Sample:
    """One training conversation.

    ``images`` and ``video`` are absolute paths, or addresses, for ``members.opened``. ``turns`` are (role, text),
    role "user" or "assistant" in turn, beginning with "user" and ending with "assistant"; the user texts hold
    exactly one ``<image>`` per image; that of a clip begins with ``<video>`` and a newline. ``label`` is what the
    row says, else what its first answer says. ``clip_s`` bounds a video to (start, end) seconds. ``max_tiles`` is
    None where the dataset does not set it. ``mask`` is the absolute path of the picture that marks what was edited,
    where the row names one.
    """

    dataset: str
    line: int
    images: tuple[str, ...]
    video: str | None
    turns: tuple[tuple[str, str], ...]
    system: str | None
    label: Verity | None
    data_augment: bool
    max_tiles: int | None
    group_id: str | None
    id: str | None = None
    clip_s: tuple[float, float] | None = None
    file: str = ""
    mask: str | None = None

    @property
    def kind(self) -> str:
        """Either "text", "image" (one or several) or "video"."""
        return "video" if self.video is not None else "image" if self.images else "text"


class _Reject(Exception):
    """Ends the reading of one row; its error is already among the findings."""


class _Reader:
    """Reads one row; collects findings as it goes."""

    def __init__(self, source: Source, line: int) -> None:
        self.source, self.line = source, line
        self.findings: list[Finding] = []

    def note(self, code: str, problem: str, hint: str = "", level: Level = "error") -> None:
        self.findings.append(Finding(level, code, self.source.file, self.line, problem, hint, self.source.dataset))

    def reject(self, code: str, problem: str, hint: str = "") -> _Reject:
        self.note(code, problem, hint)
        return _Reject()

    def attempt(self, read: Callable[..., T], *given: Any) -> T | None:
        """What ``read`` gives, or None after a reject: one row's problems are told all together."""
        try:
            return read(*given)
        except _Reject:
            return None

    def path(self, name: Any, key: str) -> str:
        if not isinstance(name, str) or not name.strip():
            raise self.reject("media-path", f'"{key}" holds {show(name)} where a path belongs')
        if "://" in name[:12]:
            raise self.reject("media-path", f'"{key}" is an address: {show(name)}', "download it and give its path")
        if "\0" in name or not well_formed(name):
            raise self.reject("media-path", f'"{key}" holds characters no path can have: {show(name)}')
        if is_address(self.source.root):
            inner = posixpath.normpath(name)
            if inner.startswith(("/", "../")) or inner == "..":
                raise self.reject("outside-root", f'"{key}" leads out of the dataset\'s root: {show(name)}')
            return f"{self.source.root}/{inner}"
        joined = os.path.normpath(os.path.join(self.source.root, name))
        inside = joined == self.source.root or joined.startswith(self.source.root.rstrip(os.sep) + os.sep)
        if not inside and not self.source.allow_outside:
            raise self.reject(
                "outside-root",
                f'"{key}" leads out of the dataset\'s root: {show(name)}',
                f"root is {show(self.source.root, 200)}; move the file there, or allow paths outside",
            )
        return joined

    def media(self, row: dict[str, Any]) -> tuple[tuple[str, ...], str | None]:
        image, video = row.get("image"), row.get("video")
        if image and video:
            raise self.reject("media-path", 'both "image" and "video" are given', "make two rows of it")
        if isinstance(image, list):
            if len(image) > MAX_IMAGES:
                raise self.reject("media-path", f"{len(image)} images in one row", f"at most {MAX_IMAGES}")
            return tuple(self.path(name, "image") for name in image), None
        if image is not None and image != "":
            return (self.path(image, "image"),), None
        if video is not None and video != "":
            return (), self.path(video, "video")
        return (), None

    def turns(self, row: dict[str, Any]) -> tuple[list[tuple[str, str]], str | None]:
        said = row.get("conversations")
        if said is None:
            near = next((f"; {did_you_mean(k, ['conversations'])}" for k in row if k.lower().startswith("conv")), "")
            raise self.reject("conversations", 'no "conversations"' + near, "a list of {from, value}")
        if not isinstance(said, list) or not said:
            raise self.reject("conversations", f'"conversations" is {show(said)}', "a list of {from, value}")
        system: str | None = None
        turns: list[tuple[str, str]] = []
        for number, turn in enumerate(said, 1):
            if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
                raise self.reject("conversations", f'turn {number} has no text under "value"')
            speaker, text = turn.get("from"), turn["value"].strip()
            if not well_formed(text):
                raise self.reject("conversations", f"turn {number} holds half a surrogate pair, which is not text")
            if not text:
                raise self.reject("empty-turn", f"turn {number} is empty")
            if speaker == "system" and number == 1:
                system = text
                continue
            expected = "human" if len(turns) % 2 == 0 else "gpt"
            if speaker != expected:
                raise self.reject(
                    "roles",
                    f'turn {number} is from {show(speaker)} where "{expected}" is due',
                    'an optional "system" first, then "human" and "gpt" in turn',
                )
            turns.append((ROLES[expected], text))
        if len(turns) % 2 or not turns:
            raise self.reject("roles", 'the conversation does not end with an answer from "gpt"')
        return turns, system

    def markers(self, turns: list[tuple[str, str]], n_images: int, video: bool) -> list[tuple[str, str]]:
        """``turns`` with the marker put in front where it is implied; the counts are checked."""
        asked = [text for role, text in turns if role == "user"]
        pictures, clips = (sum(text.count(marker) for text in asked) for marker in (IMAGE, VIDEO))
        if any(marker in text for role, text in turns if role == "assistant" for marker in (IMAGE, VIDEO)):
            raise self.reject("image-count", "a marker stands in an answer", "markers belong into human turns")
        if clips > int(video):
            what = "one video" if video else "no video"
            raise self.reject("video-count", f"{clips} {VIDEO} in the text and {what} given")
        if pictures == 0 and n_images == 1:
            turns = [("user", f"{IMAGE}\n{turns[0][1]}"), *turns[1:]]
        elif pictures != n_images:
            raise self.reject(
                "image-count",
                f"{pictures} {IMAGE} in the text and {n_images} image{'' if n_images == 1 else 's'} given",
                f"write {IMAGE} once for each image",
            )
        if video:
            if clips and not turns[0][1].startswith(VIDEO):
                self.note("video-place", f"{VIDEO} is not at the beginning of the first question", "the clip is put "
                          "before that question", "warning")  # fmt: skip
            turns = [(role, _AFTER_VIDEO.sub("", text)) for role, text in turns]
            turns = [("user", f"{VIDEO}\n{turns[0][1].lstrip()}"), *turns[1:]]
            if any(not text for _, text in turns[1:]):
                raise self.reject("empty-turn", f"a turn holds nothing but {VIDEO}")
        return turns

    def label(self, row: dict[str, Any], answer: str) -> Verity | None:
        said = answer_verity(answer)
        if row.get("label") is None:
            return said
        named = normalise_label(row["label"])
        if named is None:
            raise self.reject("label", f"unknown label {show(row['label'])}", "known: " + ", ".join(LABELS))
        given = verity(named)
        if said is None:
            hint = f'begin with "{"No" if given == "real" else "Yes"}": the score is read from the first word'
            self.note("answer-form", f'the row is labelled {named} and its first answer begins with neither '
                      f'"Yes" nor "No": {show(answer, 40)}', hint, "warning")  # fmt: skip
        elif said != given:
            raise self.reject(
                "label-contradiction",
                f"the label says {named} and the first answer says {said}: {show(answer, 40)}",
                "yes = there are artifacts = fake; no = real",
            )
        return given

    def clip(self, row: dict[str, Any]) -> tuple[float, float] | None:
        clip = row.get("clip")
        if clip is None:
            return None
        numbers = isinstance(clip, list) and len(clip) == 2
        if not numbers or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in clip):
            raise self.reject("clip", f'"clip" is {show(clip)}', "[start, end] in seconds")
        if not 0 <= clip[0] < clip[1] <= 1e9:
            raise self.reject("clip", f'"clip" is {show(clip)}', "0 <= start < end, in seconds")
        return float(clip[0]), float(clip[1])

    def text(self, row: dict[str, Any], key: str) -> str | None:
        """An id: a string or an integer; anything else is as good as none."""
        value = row.get(key)
        if isinstance(value, str) and value and well_formed(value):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
            return str(value)
        return None

    def read(self, row: Any) -> Sample:
        if not isinstance(row, dict):
            raise self.reject("bad-row", f"the line holds {show(row)}", "one JSON object a line")
        if "image" not in row and "video" not in row:
            for key in row:
                if key.lower() in ("images", "img", "videos", "image_path", "video_path"):
                    wanted = "video" if key.lower().startswith("video") else "image"
                    self.note("unknown-key", f"the key {show(key)} is not read", f'did you mean "{wanted}"?', "warning")
        media = self.attempt(self.media, row)
        said = self.attempt(self.turns, row)
        clip = self.attempt(self.clip, row)
        mask = self.attempt(self.path, row["mask"], "mask") if row.get("mask") not in (None, "") else None
        if media is None or said is None:
            raise _Reject
        (images, video), (turns, system) = media, said
        label = self.attempt(self.label, row, turns[1][1])
        turns = self.markers(turns, len(images), video is not None)
        for special in SPECIAL_TEXTS:
            if any(special in text for _, text in turns) or (system is not None and special in system):
                self.note("special-text", f'"{special}" stands in the conversation', "it is read as text", "warning")
        if any(finding.level == "error" for finding in self.findings):
            raise _Reject
        source = self.source
        return Sample(
            dataset=source.dataset,
            line=self.line,
            images=images,
            video=video,
            turns=tuple(turns),
            system=system,
            label=label,
            data_augment=source.data_augment,
            max_tiles=source.max_tiles,
            group_id=self.text(row, "group_id"),
            id=self.text(row, "id"),
            clip_s=clip if video is not None else None,
            file=source.file,
            mask=mask,
        )


def read_row(raw: bytes | None, line: int, source: Source) -> tuple[Sample | None, list[Finding]]:
    """One line's Sample (None when it cannot be used) and what was found in it. None as ``raw`` is a line too long."""
    reader = _Reader(source, line)
    if raw is None:
        reader.note("long-line", "the line is longer than 16 MiB", "is this JSONL, with one object a line?")
        return None, reader.findings
    try:
        return reader.read(parse(raw)), reader.findings
    except BadJson as bad:
        reader.note("bad-json", bad.problem, bad.hint)
    except _Reject:
        pass
    return None, reader.findings
