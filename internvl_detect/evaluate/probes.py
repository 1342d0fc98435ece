"""What needs files to be judged again: severity curves, faithfulness; and baselines made ready on other files.

    robustness_lines("ours", verdicts, subjects, root=root, side_px=512, limit=200)

Here the pictures are chosen and brought to whoever judges; what is measured lies in ``robustness``, ``faithfulness``
and ``baselines``.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from internvl_detect.data.findings import did_you_mean
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.evaluate.baselines import BASELINES, Baseline
from internvl_detect.evaluate.baselines.tagger import Tagger
from internvl_detect.evaluate.run import Verdicts, pictures_of
from internvl_detect.evaluate.subjects import Subject
from internvl_detect.verdict import Failure, Verdict

FIT_MOST = 1000  # pictures of each class that a baseline is fitted on


def evenly(subjects: Sequence[Subject], most: int, *, clips: bool = False) -> list[Subject]:
    """At most ``most`` pictures (or clips) of each class, evenly over the list."""
    found = []
    for fake in (0, 1):
        own = [s for s in subjects if s.truth.fake == fake and s.is_video == clips and not s.truth.error]
        found += [own[i * len(own) // min(most, len(own))] for i in range(min(most, len(own)))]
    return found


def judged(verdicts: Verdicts, pictures: Sequence[PILImage.Image]) -> Iterator[Verdict | Failure]:
    """What is said of pictures that lie in no file; in their order."""
    return judged_files(verdicts, map(_png, pictures), ".png")


def judged_files(verdicts: Verdicts, contents: Iterable[bytes], suffix: str) -> Iterator[Verdict | Failure]:
    """What is said of files that are nowhere yet: each lies on the disk until its verdict is there."""
    with tempfile.TemporaryDirectory(prefix="ivdetect-") as folder:

        def ask() -> Iterator[tuple[str, str]]:
            for number, content in enumerate(contents):
                path = os.path.join(folder, f"{number}{suffix}")
                with open(path, "wb") as file:
                    file.write(content)
                yield path, ""

        for number, said in enumerate(verdicts(ask())):
            os.unlink(os.path.join(folder, f"{number}{suffix}"))
            yield said


def _png(picture: PILImage.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _opened(subjects: Sequence[Subject], side_px: int | None, root: Path) -> list[tuple[Subject, PILImage.Image]]:
    return [(s, picture) for s, picture, _, _ in pictures_of(subjects, side_px, root) if picture is not None]


def robustness_lines(
    name: str,
    scores: Callable[[Sequence[PILImage.Image]], Sequence[float | None]],
    subjects: Sequence[Subject],
    *,
    root: Path,
    side_px: int | None,
    limit: int,
    only: Sequence[str] = (),
    rounds: int = 500,
) -> list[dict[str, Any]]:
    """A dict for each step of ``robustness.SEVERITIES``, on ``limit`` pictures of each class, held in memory."""
    from internvl_detect.evaluate.robustness import severity_curves

    opened = _opened(evenly(subjects, limit), side_px, root)
    if not opened:
        return []
    truth = [s.truth for s, _ in opened]
    points = severity_curves(
        scores,
        [picture for _, picture in opened],
        [row.fake or 0 for row in truth],
        [row.group for row in truth],
        [row.image for row in truth],
        only=only,
        rounds=rounds,
    )
    return [{"system": name, **point.to_dict()} for point in points]


def score_by(verdicts: Verdicts) -> Callable[[Sequence[PILImage.Image]], list[float | None]]:
    """P(fake) of pictures, None for one that could not be judged."""
    return lambda pictures: [None if isinstance(v, Failure) else v.probability for v in judged(verdicts, pictures)]


def faithfulness_of(
    verdicts: Verdicts,
    subjects: Sequence[Subject],
    *,
    root: Path,
    side_px: int | None,
    limit: int,
    map_threshold: float,
) -> dict[str, Any]:
    """``faithfulness.Faithfulness`` as a dict; ``verdicts`` must give words and masks where the model has them."""
    from internvl_detect.evaluate.faithfulness import faithfulness

    def judge(pictures: Sequence[PILImage.Image]) -> list[tuple[float, np.ndarray | None, str]]:
        found = []
        for said in judged(verdicts, pictures):
            if isinstance(said, Failure):
                raise DataError(f"a picture could not be judged again: {said.error}")
            drawn = None if said.mask is None else said.mask / np.float32(255)
            found.append((said.probability, drawn, said.words or ""))
        return found

    pictures = [picture for _, picture in _opened(evenly(subjects, limit), side_px, root)]
    return faithfulness(judge, pictures, map_threshold=map_threshold).to_dict()


def ready(
    names: Sequence[str], fit_on: Sequence[Subject], *, root: Path, side_px: int | None, tagger: str = "nano"
) -> list[Baseline]:
    """The baselines of these names, fitted where they must be; ``tagger`` is the folder of the one of that name. Raises
    ConfigError for an unknown name, and where one must be fitted and ``fit_on`` is empty; DataError without both
    classes."""
    for name in names:
        if name not in BASELINES:
            raise ConfigError(f"no baseline {name!r}", do=did_you_mean(name, BASELINES))
    made = [Tagger(tagger) if name == "tagger" else BASELINES[name]() for name in names]
    learners = [baseline for baseline in made if baseline.fits]
    if learners and not fit_on:
        named = ", ".join(baseline.name for baseline in learners)
        raise ConfigError(
            f"{named} must be fitted", do="name files to fit on: --fit MANIFEST, others than are measured"
        )
    if learners:
        opened = _opened(evenly(fit_on, FIT_MOST), side_px, root)
        fake = [s.truth.fake or 0 for s, _ in opened]
        for baseline in learners:
            baseline.fit([picture for _, picture in opened], fake, [s.truth.group for s, _ in opened])
    return made
