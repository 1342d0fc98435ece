"""The samples of a training or validation choice: found, measured in tokens, and the broken ones listed.

``scan`` reads every row and every picture's header once (no pixels are decoded), so that packing knows the lengths.
Not here: decoding and encoding for the model (``dataset``), the full check with hints (``ivdetect data check``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image as PILImage

from internvl_detect.config import TrainConfig
from internvl_detect.data.conversations.meta import AnnotationIndex, DatasetEntry, Sample, choose, read_meta
from internvl_detect.data.storage.members import opened, stated_size
from internvl_detect.errors import ConfigError, DataError, IvdetectError
from internvl_detect.media.image import open_image
from internvl_detect.media.tiles import TileSettings, count_tiles
from internvl_detect.model.prompts import SYSTEM_MESSAGE, Encoded, encode_conversation
from internvl_detect.questions import SEG

_AT_ONCE = 2048  # samples measured between two looks at the progress
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Encoding:
    """All that decides how a sample becomes tokens. ``tiles`` holds the side of a tile and the default limits."""

    tokenizer: Any
    tokens_per_tile: int
    tiles: TileSettings
    frames: int = 8
    max_tokens: int = 4096
    video_last_newline: bool = True
    system: str = SYSTEM_MESSAGE
    seg_id: int | None = None

    @classmethod
    def of(cls, config: TrainConfig, tokenizer: Any, tokens_per_tile: int, tile_px: int) -> Encoding:
        """From the settings of a run and the measures of its model."""
        tiles = TileSettings(config.tile_mode, tile_px, config.min_tiles, config.max_tiles, config.thumbnail)
        return cls(tokenizer, tokens_per_tile, tiles, config.frames, config.max_tokens, config.video_last_newline)

    def encode(self, sample: Sample, tiles_per_image: Sequence[int]) -> Encoded:
        """The ids and labels of a conversation whose pictures (or frames) have so many tiles each."""
        return encode_conversation(
            self.tokenizer,
            sample.turns,
            tiles_per_image=list(tiles_per_image),
            tokens_per_tile=self.tokens_per_tile,
            system=self.system if sample.system is None else sample.system,
            video=sample.video is not None,
            video_last_newline=self.video_last_newline,
            seg_id=self.seg_id if marks(sample) else None,
        )

    def fit(self, sample: Sample, sizes_wh: Sequence[tuple[int, int]]) -> Fit:
        """Tiles (or frames) so that the sample keeps within ``max_tokens``: fewer of them first, at least one each.

        ``sizes_wh``: upright (width, height) of each picture. Several pictures share the limit of tiles, as in the
        original. Raises DataError naming file and line when the text alone is too long; nothing is ever cut off.
        """
        if sample.video is not None:
            n = self.frames
            length = len(self.encode(sample, [1] * n).input_ids)
            while length > self.max_tokens and n > 1:
                n = max(1, min(n - 1, n * self.max_tokens // length))
                length = len(self.encode(sample, [1] * n).input_ids)
            self._short_enough(sample, length)
            return Fit(length, (1,) * n, replace(self.tiles, min_tiles=1, max_tiles=1))
        bare = len(self.encode(sample, [0] * len(sizes_wh)).input_ids)
        limit = max(1, (sample.max_tiles or self.tiles.max_tiles) // max(len(sizes_wh), 1))
        while True:
            settings = replace(self.tiles, max_tiles=limit, min_tiles=min(self.tiles.min_tiles, limit))
            counts = tuple(count_tiles(w, h, settings) for w, h in sizes_wh)
            length = bare + self.tokens_per_tile * sum(counts)
            if length <= self.max_tokens or limit == 1:
                break
            limit -= 1
        self._short_enough(sample, length)
        return Fit(length, counts, settings)

    def _short_enough(self, sample: Sample, length: int) -> None:
        if length > self.max_tokens:
            raise DataError(
                f"{sample.file}:{sample.line}: {length} tokens with one tile a picture",
                expected=f"at most max_tokens {self.max_tokens}",
                do="shorten the text or raise max_tokens",
            )


def marks(sample: Sample) -> bool:
    """Whether a sample carries pixel targets: one picture, an answer ``<SEG>``, and a mask or nothing edited."""
    asked = any(role == "assistant" and text.strip() == SEG for role, text in sample.turns)
    return asked and len(sample.images) == 1 and (sample.mask is not None or sample.label == "real")


@dataclass(frozen=True)
class Fit:
    """How a sample fits: its ``length`` in tokens, tiles of each picture (or frame), and the settings to cut them."""

    length: int
    tiles_per_image: tuple[int, ...]
    settings: TileSettings


@dataclass(frozen=True)
class Problem:
    """A sample that cannot be used, and why."""

    dataset: str
    file: str
    line: int
    problem: str

    def to_dict(self) -> dict[str, Any]:
        """A row of skipped.jsonl."""
        return {"dataset": self.dataset, "file": self.file, "line": self.line, "problem": self.problem}


class Corpus:
    """The usable samples of a choice of datasets, by number, with their lengths in tokens.

    ``problems`` are the rows left out, ``groups`` the group_ids of the others, ``clips`` how many of them are clips.
    ``manifest`` is the sha256 over the meta JSON and the chosen annotation files.
    """

    def __init__(self, entries: Sequence[DatasetEntry], seed: int = 0, manifest: str = "") -> None:
        self.entries = list(entries)
        self.indices: list[AnnotationIndex] = [entry.index(seed) for entry in self.entries]
        self.manifest = manifest
        starts = np.cumsum([0, *(len(index) for index in self.indices)])
        self._starts = starts
        self.positions = np.arange(int(starts[-1]), dtype=np.int64)
        self.lengths = np.zeros(len(self.positions), np.int64)
        self.problems: list[Problem] = []
        self.groups: set[str] = set()
        self.clips = 0

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> Sample:
        """Sample ``number``. Raises DataError for a broken row, IndexError."""
        index, at = self._where(int(self.positions[number]))
        return index[at]

    def place(self, number: int) -> tuple[str, str, int]:
        """(dataset, file, line) of a sample, also of a broken one."""
        index, at = self._where(int(self.positions[number]))
        return index.source.dataset, index.source.file, index.line(at)

    def _where(self, position: int) -> tuple[AnnotationIndex, int]:
        which = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self.indices[which], position - int(self._starts[which])

    def keep(self, numbers: Sequence[int] | np.ndarray) -> None:
        """Leaves only these samples, in this order."""
        self.positions, self.lengths = self.positions[numbers], self.lengths[numbers]

    def scan(
        self,
        encoding: Encoding,
        *,
        on_broken: str = "skip",
        threads: int = 4,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Measures every sample and leaves out the broken ones (``on_broken`` "error": raises at the first)."""

        def one(number: int) -> tuple[int, str | None, bool] | IvdetectError:
            try:
                sample = self[number]
                length = encoding.fit(sample, [picture_size(path) for path in sample.images]).length
                return length, sample.group_id, sample.video is not None
            except IvdetectError as error:
                return error

        good: list[int] = []
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for start in range(0, len(self), _AT_ONCE):
                numbers = range(start, min(start + _AT_ONCE, len(self)))
                for number, found in zip(numbers, pool.map(one, numbers), strict=True):
                    if isinstance(found, tuple):
                        self.lengths[number] = found[0]
                        self.groups.update(filter(None, found[1:2]))
                        self.clips += found[2]
                        good.append(number)
                        continue
                    if on_broken == "error":
                        raise placed(found, *self.place(number)[1:])
                    self.problems.append(Problem(*self.place(number), str(found)))
                if progress is not None:
                    progress(numbers.stop)
        self.keep(np.asarray(good, dtype=np.int64))


def open_corpus(config: TrainConfig, choice: str, *, seed: int = 0, without: str = "", split: str = "train") -> Corpus:
    """The corpus of ``data_path`` and a choice of names; "all" or empty takes every dataset but those of ``without``.

    What has a split of its own in the meta JSON is taken where it is ``split``, or where it is named itself.

    Raises ConfigError, DataError.
    """
    if not config.data_path:
        raise ConfigError("data_path is not set", expected="a meta JSON", do="set DATA_PATH or --set data_path=...")
    path = Path(config.data_path)
    if path.is_dir():
        path = path / "meta.json"
    if not path.is_file():
        raise ConfigError(f"data_path {path} is not there", expected="a meta JSON, or a folder holding meta.json")
    entries = read_meta(path, allow_remote=config.allow_remote)
    if choice.strip().lower() not in ("", "all"):
        entries = choose(entries, choice, split=split)
    else:
        held = {entry.name for entry in choose(entries, without, split="val")} if without.strip() else set()
        entries = [entry for entry in choose(entries, "", split=split) if entry.name not in held]
        if not entries:
            raise ConfigError(
                "every dataset is for validation or test", do="name those to train on: TRAIN_DATA_CHOICE=a,b"
            )
    digest = hashlib.sha256(path.read_bytes())
    for entry in entries:
        try:
            with open(entry.annotation, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{entry.annotation} could not be read: {error.strerror}") from None
    return Corpus(entries, seed, digest.hexdigest())


def overlap(training: Corpus, validation: Corpus) -> str:
    """What two scanned corpora have in common, in words: datasets or sources (group_id); empty when nothing."""
    said = []
    if names := {e.annotation for e in training.entries} & {e.annotation for e in validation.entries}:
        said.append(f"{len(names)} datasets")
    if groups := training.groups & validation.groups:
        said.append(f"{len(groups)} sources (group_id)")
    return " and ".join(said)


def picture_size(path: str) -> tuple[int, int]:
    """Upright (width, height) in pixels from a shard's index or the file's header; decodes only where neither tells."""
    if stated := stated_size(path):
        return stated
    with opened(path) as source:
        return _size_of(source)


def _size_of(source: str | BinaryIO) -> tuple[int, int]:
    try:
        with PILImage.open(source) as picture:
            width, height = picture.size
            # A PNG without early EXIF would be decoded whole by getexif.
            early = picture.format != "PNG" or "exif" in picture.info
            turned = early and picture.getexif().get(_ORIENTATION) in _TURNED
            return (height, width) if turned else (width, height)
    except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError):
        if not isinstance(source, str):
            source.seek(0)
        picture = open_image(source)
        return picture.width, picture.height


def placed(error: IvdetectError, file: str, line: int) -> DataError:
    where = f"{file}:{line}"
    found = error.found if where in error.found else f"{where}: {error.found}"
    return DataError(found, expected=error.expected, do=error.do)
