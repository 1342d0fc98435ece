"""Files judged one by one into a file of predictions: made alike first, each failure its own row, resumable.

    with PredictionsFile("out/predictions.jsonl") as file:
        judge(subjects, file, verdicts, masks=Path("out/masks"), side_px=512)

Who judges is handed in: ``verdicts`` takes (path, question) one after the other, and gives a Verdict or a Failure for
each in the same order. ``score`` does the same for a baseline, which takes pictures. Not here: the model, the grades.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from internvl_detect.data.prepare.regions import read_mask
from internvl_detect.errors import DataError, IvdetectError, MediaError, OutputError
from internvl_detect.evaluate.baselines import BATCH, Baseline, scored
from internvl_detect.evaluate.baselines.outside import note_outside
from internvl_detect.evaluate.equalise import SIDE_PX, common_side, equalise, rng_of, square_mask
from internvl_detect.evaluate.prediction_file import PredictionsFile
from internvl_detect.evaluate.predictions import Prediction
from internvl_detect.evaluate.subjects import Subject
from internvl_detect.media.image import Image, open_image
from internvl_detect.media.provenance.jpeg_tables import describe_tables
from internvl_detect.media.source import picture_format
from internvl_detect.verdict import Failure, Verdict

Asks = Iterable[tuple[str, str] | Failure]
Verdicts = Callable[[Asks], Iterator[Verdict | Failure]]
MASKS = "masks"
LEAST_SIDE_PX = 64
_SIZED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def side_for(subjects: Iterable[Subject]) -> int:
    """The side in px that every picture has, so that size says nothing of the class: at most 512, at least 64 (smaller
    pictures then stay smaller). Reads heads of files only; what cannot be read counts nothing."""
    sizes = []
    for subject in subjects:
        if subject.is_video or subject.truth.error:
            continue
        try:
            with open(subject.path, "rb") as file:
                found = picture_format(file.read(64))
                if found in _SIZED:
                    file.seek(0)
                    with PILImage.open(file, formats=[found]) as picture:
                        sizes.append(picture.size)
        except Exception:  # noqa: BLE001 - whatever is wrong with it is told when it is judged
            continue
    return max(LEAST_SIDE_PX, common_side(sizes, SIDE_PX))


def alike(subject: Subject, side_px: int | None, root: Path) -> tuple[PILImage.Image, dict[str, Any]]:
    """(picture, facts of the file), made like all others when ``side_px`` is given.

    Raises MediaError for what cannot be read, and where an edit lies outside the part that would be looked at.
    """
    picture = open_image(subject.path)
    facts = _facts(picture)
    if side_px is None:
        return note_outside(picture), facts
    marked = subject.truth.fake and subject.truth.truth_mask
    if marked and not square_mask(read_mask(root / subject.truth.truth_mask), side_px).any():
        raise MediaError("what was edited lies outside the part that is looked at", do="see --no-equalise")
    rng = rng_of(subject.truth.image)
    return equalise(picture.rgb, rng, side_px=side_px), facts | {"side_px": side_px}


def _facts(picture: Image) -> dict[str, Any]:
    facts: dict[str, Any] = {"width": picture.width, "height": picture.height, "format": picture.format}
    if quality := describe_tables(picture.metadata).get("quality"):
        facts["quality"] = quality
    return facts


def judge(
    subjects: Iterable[Subject],
    file: PredictionsFile,
    verdicts: Verdicts,
    *,
    root: Path,
    masks: Path,
    side_px: int | None,
    step: Callable[[int], None] = lambda n: None,
) -> int:
    """Writes a row for each subject that has none; gives the number that failed. Clips are judged as they are."""
    waiting: deque[tuple[Subject, dict[str, Any], str]] = deque()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="ivdetect-") as folder:

        def ask() -> Iterator[tuple[str, str] | Failure]:
            for number, subject in enumerate(subjects):
                if file.has(subject.truth.dataset, subject.truth.image):
                    step(1)
                    continue
                facts: dict[str, Any] = {}
                path, made = subject.path, ""
                try:
                    if subject.truth.error:
                        raise MediaError(subject.truth.error)
                    if not subject.is_video:
                        picture, facts = alike(subject, side_px, root)
                        if side_px is not None:
                            path = made = os.path.join(folder, f"{number}.png")
                            picture.save(made, compress_level=1)
                except IvdetectError as error:
                    waiting.append((subject, facts, ""))
                    yield Failure(subject.path, str(error), error.exit_code)
                    continue
                waiting.append((subject, facts, made))
                yield path, subject.question

        for said in verdicts(ask()):
            subject, facts, made = waiting.popleft()
            row = prediction_of(subject.truth, said, facts, masks)
            failed += bool(row.error)
            file.write(row)
            if made:
                os.unlink(made)
            step(1)
    return failed


def prediction_of(truth: Prediction, said: Verdict | Failure, facts: dict[str, Any], masks: Path) -> Prediction:
    """The row of one file; a mask, where the verdict has one, is written beside. Raises OutputError."""
    facts = truth.facts | facts
    if isinstance(said, Failure):
        return replace(truth, facts=facts, error=said.error)
    facts |= {"kind": "video"} if said.kind == "video" else {}
    facts = {"width": said.width, "height": said.height} | facts if said.width else facts
    drawn = said.mask
    return replace(
        truth,
        score=said.probability,
        decision=said.decision,
        outputs=said.words or "",
        frames=tuple((frame.time_s, frame.score) for frame in said.frames),
        stretch=(said.stretch.start_s, said.stretch.end_s) if said.stretch else None,
        domain_tag=said.domain_tag or "",
        mask=store_mask(drawn, truth, masks) if drawn is not None and said.kind == "image" else "",
        facts=facts,
    )


def store_mask(drawn: np.ndarray, truth: Prediction, masks: Path) -> str:
    """Writes uint8 (H, W), or a probability in [0, 1], as PNG; gives its path from the folder above ``masks``."""
    values = drawn if drawn.dtype == np.uint8 else np.round(np.clip(drawn, 0, 1) * 255).astype(np.uint8)
    name = hashlib.blake2b(f"{truth.dataset}\0{truth.image}".encode("utf-8", "surrogateescape"), digest_size=12)
    try:
        masks.mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(values).save(masks / f"{name.hexdigest()}.png", compress_level=1)
    except OSError as error:
        raise OutputError(f"{masks} could not be written ({error.strerror or error})") from error
    return f"{masks.name}/{name.hexdigest()}.png"


def pictures_of(
    subjects: Iterable[Subject], side_px: int | None, root: Path
) -> Iterator[tuple[Subject, PILImage.Image | None, dict[str, Any], str]]:
    """(subject, picture, facts, "") of each picture, or (subject, None, {}, what is wrong); clips are left out."""
    for subject in subjects:
        if subject.is_video:
            continue
        try:
            if subject.truth.error:
                raise MediaError(subject.truth.error)
            picture, facts = alike(subject, side_px, root)
        except IvdetectError as error:
            yield subject, None, {}, str(error)
        else:
            yield subject, picture, facts, ""


def score(
    subjects: Sequence[Subject],
    file: PredictionsFile,
    baseline: Baseline,
    *,
    root: Path,
    masks: Path,
    side_px: int | None,
    step: Callable[[int], None] = lambda n: None,
) -> int:
    """The same by a baseline that is ready: pictures only, batch by batch. Its maps become masks."""
    left = (s for s in subjects if not file.has(s.truth.dataset, s.truth.image))
    source, failed = pictures_of(left, side_px, root), 0
    while batch := list(islice(source, BATCH)):
        fine = [(picture, at) for at, (_, picture, _, _) in enumerate(batch) if picture is not None]
        found = dict(zip((at for _, at in fine), _scored(baseline, [p for p, _ in fine], file.rows), strict=True))
        maps = baseline.maps([p for p, _ in fine]) if fine else None
        drawn = dict(zip((at for _, at in fine), maps, strict=True)) if maps is not None else {}
        for at, (subject, _, facts, error) in enumerate(batch):
            value, problem = found.get(at, (None, error))
            row = replace(subject.truth, score=value, facts=subject.truth.facts | facts, error=problem)
            if at in drawn and not problem:
                row.mask = store_mask(np.asarray(drawn[at]), subject.truth, masks)
            failed += bool(problem)
            file.write(row)
            step(1)
    return failed


def _scored(baseline: Baseline, pictures: Sequence[PILImage.Image], rows_before: int) -> list[tuple[float | None, str]]:
    """A whole batch that fails is the baseline's own failure at first, and later those pictures'."""
    try:
        return scored(baseline, pictures)
    except DataError as error:
        if not rows_before:
            raise
        return [(None, str(error))] * len(pictures)
