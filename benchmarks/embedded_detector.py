"""Parts c and f of ``embedded.py``: detection by InternVL2 alone, the tagger alone and both, as the program answers.

All pictures are equalised (the middle square, one JPEG), then judged by the detector itself, without provenance. What
it said of a picture goes to a JSONL, so that a killed run goes on and part f takes what part c judged. Not here: the
tagger's tags and map (``embedded_tagger``), words and masks, speed (``embedded_words``).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from embedded_sets import DRAWN, FORGED, TAMPERED, WHOLE, Item, bootstrapped, detection, figure, numbers, ranked, some
from PIL import Image

from internvl_detect.data.jsonl import remembered
from internvl_detect.detect import Detector
from internvl_detect.errors import IvdetectError
from internvl_detect.evaluate.detection import FIGURES, Ranked
from internvl_detect.evaluate.intervals import intervals, paired
from internvl_detect.evaluate.robustness import worsened
from internvl_detect.train.fuse import Parts
from internvl_detect.train.fuse_fit import weights_of

SYSTEMS = ("fused", "nano", "tagger")
DECISIONS = ("authentic", "unsure", "fake")
WORSE: tuple[tuple[str, Any], ...] = (
    ("none", ""),
    ("jpeg", 90),
    ("jpeg", 75),
    ("jpeg", 60),
    ("resize", 0.5),
    ("resize", 0.75),
    ("blur", 1.0),
)
BINS = 10
ALL_OF = {WHOLE: "generated", TAMPERED: "tampered by others", FORGED: "forged"}
Said = list[tuple[Item, dict[str, Any]]]


class Judge:
    """The detector with a memory on disk. A row: ``nano``, ``tagger`` and ``fused`` P(fake), ``probability``,
    ``decision``."""

    def __init__(self, detector: Detector, adapter: Path | None, cache: Path) -> None:
        self.detector = detector
        tagger = detector.looker.tagger
        settings = detector.loaded.settings
        facts = [Parts(detector.loaded, tagger, adapter).key, settings.calibration, settings.fusion]
        self.key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        cache.parent.mkdir(parents=True, exist_ok=True)
        self.known = remembered(cache, self.key)
        self.file = cache.open("a", encoding="utf-8")
        print(file=self.file)  # ends a line that was cut off

    def said(self, items: Sequence[Item], operation: str = "none", severity: Any = "") -> Said:
        """What the detector says of each picture, equalised and then made worse; what fails is told and left out."""
        found: Said = []
        for at, item in enumerate(items):
            if at % 100 == 99:
                print(f"  {at + 1} of {len(items)} judged", flush=True)
            name = f"{operation} {severity} {item.row.path}"
            if name not in self.known:
                try:
                    row = self._judged(item, operation, severity)
                except IvdetectError as error:
                    print(f"  left out: {error}", flush=True)
                    continue
                self.known[name] = {"picture": name, "key": self.key, **row}
                print(json.dumps(self.known[name]), file=self.file, flush=True)
            found.append((item, self.known[name]))
        return found

    def _judged(self, item: Item, operation: str, severity: Any) -> dict[str, Any]:
        picture = worsened(item.equalised(), operation, severity, np.random.default_rng(0))
        verdict = self.detector.detect(_png(picture))
        parts = {one.source: one.score for one in verdict.evidence}
        return {
            "nano": parts.get("internvl2", verdict.score),
            "tagger": parts["domain_tag"],
            "fused": verdict.score,
            "probability": verdict.probability,
            "decision": verdict.decision,
        }


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def rows_of(said: Said, system: str, by_source: bool = False) -> Ranked:
    """Detection rows of one system; "probability" has the decisions too. Groups are photographs, or sources."""
    fake = [item.fake for item, _ in said]
    groups = [f"{item.row.source}/{item.fake}" if by_source else item.group for item, _ in said]
    decisions = [DECISIONS.index(row["decision"]) for _, row in said] if system == "probability" else None
    return ranked([row[system] for _, row in said], fake, groups, decisions)


def auc_lines(said: Said) -> list[dict[str, Any]]:
    """AUC of each system: each source of fakes against the authentic pictures of its pool, seen and never seen."""
    lines = []
    for pool in (WHOLE, TAMPERED, FORGED):
        fakes = [one for one in said if one[0].fake and one[0].pool == pool]
        for seen in (True, False):
            own_pool = WHOLE if pool == TAMPERED else pool
            real = [one for one in said if not one[0].fake and one[0].pool == own_pool and one[0].seen == seen]
            if not real or not fakes:
                continue
            whose = "authentic twins" if pool == FORGED else "photographs"
            head = {"real": f"{whose} {'of test' if seen else 'never seen'}"}
            for name, own_seen in sorted({(item.row.source, item.seen) for item, _ in fakes}):
                own = [one for one in fakes if one[0].row.source == name]
                lines.append(
                    {"fakes": name, "never_seen": "" if own_seen else "yes", **head, **_systems([*real, *own])}
                )
            for own_seen in sorted({item.seen for item, _ in fakes}, reverse=True):
                own = [one for one in fakes if one[0].seen == own_seen]
                name = f"all {ALL_OF[pool]}"
                lines.append(
                    {"fakes": name, "never_seen": "" if own_seen else "yes", **head, **_systems([*real, *own])}
                )
    return lines


def _systems(said: Said) -> dict[str, Any]:
    found = {name: detection(rows_of(said, name)) for name in SYSTEMS}
    counts = {key: found["fused"][key] for key in ("n_real", "n_fake")}
    return counts | {f"auc_{name}": each["auc"] for name, each in found.items()}


def paired_lines(said: Said) -> list[dict[str, Any]]:
    """AUC of both together less that of each alone, in the same draws."""
    lines = []
    for name, part in _parts(said).items():
        rows = [rows_of(part, system) for system in SYSTEMS]
        values = [lambda weights, one=one: one.values(weights)[:1] for one in rows]
        bounds = paired(values, rows[0].n_groups, rounds=500)
        first = float(values[0](np.ones(rows[0].n_groups))[0])
        for other, (low, high), one in zip(SYSTEMS[1:], bounds[1:], values[1:], strict=True):
            value = first - float(one(np.ones(rows[0].n_groups))[0])
            line = {"pictures": name, "fused_less": other, "auc_difference": figure(value, -high[0], -low[0])}
            lines.append(line)
    return lines


def _parts(said: Said) -> dict[str, Said]:
    """The test split, what was never seen, and test fakes against photographs never seen; those with both classes."""
    parts = {
        "test split": [one for one in said if one[0].seen],
        "sources never seen": [one for one in said if not one[0].seen],
        "test fakes, photographs never seen": [one for one in said if one[0].fake == one[0].seen],
    }
    return {name: part for name, part in parts.items() if len({item.fake for item, _ in part}) == 2}


def decision_lines(said: Said) -> list[dict[str, Any]]:
    """The three-way decision: how often it is right where it decides, and how often it decides. By part and class with
    each source weighing the same (sources are drawn), and by source (photographs are drawn)."""
    lines = []
    for seen, name in ((True, "test split"), (False, "sources never seen")):
        for fake, kind in ((0, "authentic"), (1, "fake")):
            own = [one for one in said if one[0].seen == seen and one[0].fake == fake]
            sources = sorted({item.row.source for item, _ in own})
            for source in ["all", *sources] if own else ():
                part = [one for one in own if source in ("all", one[0].row.source)]
                lines.append({"pictures": name, "class": kind, "source": source, "n": len(part), **_decided(part)})
    return lines


def _decided(said: Said) -> dict[str, Any]:
    """Coverage, and the share of right ones among the decided; of several sources, each weighs the same."""
    source = numbers([item.row.source for item, _ in said])
    several = int(source.max()) > 0
    group = source if several else numbers([item.group for item, _ in said])
    decided = np.array([row["decision"] != "unsure" for _, row in said], float)
    right = np.array([row["decision"] == DECISIONS[2 * item.fake] for item, row in said], float)
    w = 1 / np.bincount(source)[source] if several else np.ones(len(said))
    sums = [np.bincount(group, w * each) for each in (np.ones(len(said)), decided, right)]

    def values(weights: np.ndarray) -> np.ndarray:
        every, answered, good = (float((each * weights).sum()) for each in sums)
        return np.array([good / answered if answered else np.nan, answered / every if every else np.nan])

    return bootstrapped(values, ("right_of_decided", "coverage"), len(sums[0]))


def called_lines(said: Said) -> list[dict[str, Any]]:
    """How often a "fake" or an "authentic" is right, both classes alike and the sources of each; sources are drawn."""
    lines = []
    for name, part in _parts(said).items():
        fake = np.array([item.fake for item, _ in part])
        group = numbers([f"{item.fake}/{item.row.source}" for item, _ in part])
        said_so = np.array([DECISIONS.index(row["decision"]) for _, row in part])
        for answer in (0, 2):

            def values(weights: np.ndarray, fake=fake, group=group, said_so=said_so, answer=answer) -> np.ndarray:
                if any(weights[group[fake == c]].sum() == 0 for c in (0, 1)):
                    return np.array([np.nan, np.nan])
                w = weights_of(fake, group, weights.astype(float))
                called = w[said_so == answer].sum()
                right = w[(said_so == answer) & (fake == (answer == 2))].sum()
                return np.array([right / called if called else np.nan, called / w.sum()])

            n = int((said_so == answer).sum())
            both = bootstrapped(values, ("right", "share_of_answers"), int(group.max()) + 1)
            lines.append({"pictures": name, "answer": DECISIONS[answer], "n": n, **both})
    return lines


def detector_part(judge: Judge, items: Sequence[Item]) -> dict[str, Any]:
    """Part c. What people drew is told of apart: it is authentic, and as unlike a photograph as what is generated."""
    every = judge.said(items)
    drawn, said = ([one for one in every if (one[0].pool == DRAWN) == own] for own in (True, False))
    generated = [one for one in said if one[0].pool == WHOLE and one[0].fake and not one[0].seen]
    told = [{"fakes": "all generated, never seen", "real": DRAWN, **_systems([*drawn, *generated])}]
    answers = [row["decision"] for _, row in drawn]
    told[0] |= {f"drawn_called_{each}": figure(answers.count(each) / max(1, len(answers))) for each in DECISIONS}
    return {
        "auc": auc_lines(said),
        "fused_or_alone": paired_lines(said),
        "answers": called_lines(said),
        "decisions": decision_lines(said),
        "drawn": told if drawn and generated else [],
        "drawn_decisions": decision_lines(drawn),
    }


def reliability(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[dict[str, Any]]:
    """Bins of equal width that hold something: mean P(fake) against the share of fakes, weighted."""
    at = np.minimum((p * BINS).astype(int), BINS - 1)
    return [
        {
            "from": b / BINS,
            "to": (b + 1) / BINS,
            "n": int((at == b).sum()),
            "mean_p": round(float(np.average(p[at == b], weights=w[at == b])), 4),
            "share_fake": round(float(np.average(y[at == b], weights=w[at == b])), 4),
        }
        for b in np.unique(at).tolist()
    ]


def calibration_lines(said: Said) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(ECE of the raw and of the calibrated score by part, bins of the calibrated), each class and source alike."""
    lines, bins = [], []
    for name, part in _parts(said).items():
        y = np.array([item.fake for item, _ in part])
        group = numbers([f"{item.fake}/{item.row.source}" for item, _ in part])
        for system in ("nano", "tagger", "fused", "probability"):
            p = np.array([row[system] for _, row in part], float)

            def values(weights: np.ndarray, p=p, y=y, group=group) -> np.ndarray:
                if any(weights[group[y == c]].sum() == 0 for c in (0, 1)):
                    return np.array([np.nan])
                w = weights_of(y, group, weights.astype(float))
                at = np.minimum((p * BINS).astype(int), BINS - 1)
                return np.array([np.abs(np.bincount(at, w * (p - y))).sum() / w.sum()])

            what = {"fused": "fused, raw", "probability": "fused, calibrated"}.get(system, system)
            line = {"pictures": name, "score": what, "n": len(y)}
            lines.append(line | bootstrapped(values, ("ece",), int(group.max()) + 1))
        p = np.array([row["probability"] for _, row in part], float)
        bins += [{"pictures": name, **one} for one in reliability(p, y, weights_of(y, group))]
    return lines, bins


def robustness_part(judge: Judge, items: Sequence[Item], curves: int) -> dict[str, Any]:
    """Part f: calibration on what part c judged, robustness on about ``curves`` whole pictures of each class."""
    items = [item for item in items if item.pool != DRAWN]
    errors, bins = calibration_lines(judge.said(items))
    some_of: list[Item] = []
    for fake in (0, 1):
        own = [item for item in items if item.pool == WHOLE and item.fake == fake]
        n = len({item.row.source for item in own})
        some_of += some(own, max(1, round(curves / max(n, 1))), lambda item: item.row.source)
    lines = []
    at = list(FIGURES).index("auc")
    for operation, severity in WORSE:
        print(f"  robustness: {operation} {severity}", flush=True)
        said = judge.said(some_of, operation, severity)
        line: dict[str, Any] = {"operation": operation, "severity": severity, "n": len(said)}
        for system in SYSTEMS if said else ():
            rows = rows_of(said, system)
            low, high = intervals(rows.values, rows.n_groups, rounds=300)
            line[f"auc_{system}"] = figure(rows.figures()["auc"], low[at], high[at])
        lines.append(line)
    return {"calibration": errors, "reliability": bins, "robustness": lines}
