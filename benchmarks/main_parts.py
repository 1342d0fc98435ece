"""What ``main_results`` measures with: the detector and its parts in one pass, baselines, decoders, rows on disk.

A folder of state holds what is done, each file whole or not there, so that an ended run goes on: decoders, one JSONL of
rows for each system on the files and on the twins, the masks that it drew, and what it said of degraded pictures. Not
here: the order of the work and the tables (``main_results``).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl_detect.data.jsonl import atomically, write_jsonl
from internvl_detect.detect import Detector
from internvl_detect.evaluate.baselines import BATCH, Baseline, scored
from internvl_detect.evaluate.gather import Item
from internvl_detect.evaluate.predictions import Prediction
from internvl_detect.evaluate.run import store_mask
from internvl_detect.evaluate.twins import Twins
from internvl_detect.model.domain_tag import spread
from internvl_detect.train.autoencoders import new_autoencoder, save_autoencoder
from internvl_detect.train.rebuild import train_autoencoder

DETECTOR, MODEL, TAGGER = "detector", "model alone", "tagger alone"
DECODERS = ("nearest8k", "bilinear4", "transpose8", "shuffle4")
FILES, TWINS = "files", "twins"
WHOLE = "_whole"  # of a method's name: what it makes has no region to be found


@dataclass(frozen=True)
class Answer:
    """What one system says of one picture: P(fake) or an error; its decision and its map where it has them."""

    score: float | None
    error: str = ""
    decision: str = ""
    drawn: np.ndarray | None = None


class Embedded:
    """The detector as users have it, and InternVL2 and the domain tagger alone, from one look at each picture.

    What each says is what ``--tagger none`` and the baseline ``tagger`` would say (a test holds that): the verdict
    names both parts as evidence. ``kept`` is a file of what was said of pictures, so that nothing is asked twice.
    """

    def __init__(self, model: str, adapter: str | None, tagger: str, kept: Path | None = None) -> None:
        self.detector = Detector.from_pretrained(model, adapter, tagger=tagger, provenance=False)
        self.kept, self.known = kept, {}
        for line in kept.read_text().splitlines() if kept is not None and kept.exists() else ():
            with suppress(ValueError):  # a line that was cut when the run was ended
                self.known[json.loads(line)[0]] = json.loads(line)[1]

    @property
    def names(self) -> list[str]:
        """The systems: three with a tagger, else the model alone."""
        return [DETECTOR, MODEL, TAGGER] if self.detector.draws else [MODEL]

    def look(self, picture: Image.Image, **wanted: bool) -> tuple[dict[str, float], Any]:
        """P(fake) by each system, and the verdict."""
        verdict = self.detector.detect(_png(picture), **wanted)
        parts = {evidence.source: evidence.score for evidence in verdict.evidence}
        own = parts.get("internvl2", verdict.score)  # without weights to fuse by, the score is the model's
        told = {MODEL: self.detector.calibration.probability(own)}
        if self.detector.draws:
            told |= {DETECTOR: verdict.probability, TAGGER: parts["domain_tag"]}
        return told, verdict

    def answers(self, pictures: Sequence[Image.Image]) -> Iterator[dict[str, Answer]]:
        """Of each picture, by each system. The detector's mask is the tagger's map too, unless its adapter draws."""
        decide = self.detector.calibration.decide
        for picture in pictures:
            try:
                told, verdict = self.look(picture, mask=self.detector.draws)
            except Exception as error:  # noqa: BLE001 - one picture's failure is its own row's
                yield dict.fromkeys(self.names, Answer(None, str(error)))
                continue
            made = {name: Answer(score) for name, score in told.items()}
            made[MODEL] = Answer(told[MODEL], decision=decide(told[MODEL]))
            if DETECTOR in told:
                made[DETECTOR] = Answer(told[DETECTOR], "", verdict.decision, verdict.mask)
                seen = spread(self.detector.looker.tagger.look(picture).map, picture.size)
                made[TAGGER] = Answer(told[TAGGER], drawn=seen)
            yield made

    def by(self, name: str) -> Callable[[Sequence[Image.Image]], list[float | None]]:
        """A function from pictures to scores of one system, for curves; what was said is kept."""

        def scores(pictures: Sequence[Image.Image]) -> list[float | None]:
            return [self._told(picture).get(name) for picture in pictures]

        return scores

    def _told(self, picture: Image.Image) -> dict[str, float]:
        key = hashlib.blake2b(picture.tobytes() + str(picture.size).encode(), digest_size=12).hexdigest()
        if key not in self.known:
            try:
                self.known[key] = self.look(picture)[0]
            except Exception:  # noqa: BLE001 - counted as failed at its step
                self.known[key] = {}
            if self.kept is not None:
                with open(self.kept, "a", encoding="ascii") as file:
                    file.write(json.dumps([key, self.known[key]]) + "\n")
        return self.known[key]

    def said(self, pictures: Sequence[Image.Image]) -> list[tuple[float, np.ndarray | None, str]]:
        """(P(fake), mask in [0, 1] or None, words) of each, for faithfulness."""
        verdicts = (self.look(picture, explain=True, mask=self.detector.draws)[1] for picture in pictures)
        return [(v.probability, None if v.mask is None else v.mask / 255, v.words or "") for v in verdicts]


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def answers_of(baseline: Baseline, pictures: Sequence[Image.Image]) -> list[Answer]:
    """The same by a baseline that is ready. Raises DataError where it can score none."""
    found = []
    for at in range(0, len(pictures), BATCH):
        part = pictures[at : at + BATCH]
        maps = baseline.maps(part) or [None] * len(part)
        found += [Answer(*told, "", drawn) for told, drawn in zip(scored(baseline, part), maps, strict=True)]
    return found


def train_decoder(kind: str, items: Sequence[Item], folder: Path, seconds: float) -> None:
    """A small decoder of our own, trained on the fitting half's photographs, with how close it comes."""
    path = folder / f"{kind}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    net = new_autoencoder(kind)
    windows = [np.asarray(item.window) for item in items if item.window is not None]
    psnr = train_autoencoder(net, windows, seconds=seconds, seed=DECODERS.index(kind))
    save_autoencoder(net, path.with_suffix(".part"), kind=kind)
    path.with_suffix(".part").replace(path)
    keep(path.with_suffix(".json"), {"kind": kind, "seconds": seconds, "psnr_db": round(psnr, 1)})


def keep(path: Path, what: Any) -> None:
    """JSON, whole or not at all."""
    with atomically(path) as file:
        file.write(json.dumps(what, indent=1).encode("ascii") + b"\n")


def write_rows(
    items: Sequence[Item],
    answers: Sequence[Answer],
    where: Path,
    *,
    outside: bool = False,
    decide: Callable[[float], str] | None = None,
) -> None:
    """``where``.jsonl, a row a file: of a clip the mean of its frames, of which ``decide`` makes the decision.
    ``outside``: one answer a file, no squares."""
    rows, at = [], 0
    for item in items:
        n = 1 if outside else len(item.pictures)
        own, at = answers[at : at + n], at + n
        file = item.outside.info["file"]
        facts = {k: file.get(k) for k in ("width", "height", "format", "quality")}
        facts |= {"generator": item.row.generator, "domain": item.row.domain, "kind": item.row.kind}
        row = Prediction(
            item.row.path, item.row.label, None, "", item.row.dataset, item.row.group_id, truth_mask=item.row.mask
        )
        if not outside:
            facts["side_px"] = item.pictures[0].width
        row.facts = {k: v for k, v in facts.items() if v}
        scores = [answer.score for answer in own if answer.score is not None]
        row.score, row.error = (float(np.mean(scores)), "") if scores else (None, own[0].error)
        if item.times_s and len(scores) == len(item.times_s):
            row.frames = tuple(zip(item.times_s, scores, strict=True))
            row.decision = decide(row.score) if decide else ""
        if n == 1 and not item.times_s:
            row.decision = own[0].decision
            if own[0].drawn is not None:
                row.mask = store_mask(own[0].drawn, row, where / "masks")
        rows.append(row.to_row())
    write_jsonl(where.with_suffix(".jsonl"), rows)


def write_twin_rows(twins: Twins, answers: Sequence[Answer], where: Path) -> None:
    """The same of twins: real and forged after each other. Their true masks lie beside, as ``true/N.png``."""
    rows = []
    for i, answer in enumerate(answers):
        method, fake = twins.method[i], twins.fake[i]
        row = Prediction(f"{twins.group[i]}#{i // 2}", "fake" if fake else "real", answer.score, answer.decision)
        row.image, row.dataset, row.group_id = f"{row.image}/{method if fake else 'untouched'}", TWINS, twins.group[i]
        row.error, row.facts = answer.error, dict(zip(("width", "height"), twins.pictures[i].size, strict=True))
        row.facts |= {"method": method} if fake else {}
        if fake and not method.endswith(WHOLE):
            row.truth_mask = f"true/{i}.png"
        if answer.drawn is not None:
            row.mask = store_mask(answer.drawn, row, where / "masks")
        rows.append(row.to_row())
    write_jsonl(where.with_suffix(".jsonl"), rows)


def write_true_masks(twins: Twins, folder: Path) -> None:
    """``true/N.png`` of every forged twin."""
    (folder / "true").mkdir(parents=True, exist_ok=True)
    for i, mask in enumerate(twins.masks):
        if mask.any():
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "true" / f"{i}.png", compress_level=1)
