"""Parts a, e and g of ``embedded.py``: the domain tagger's tags and map, and taggers trained without some sources.

Every picture is looked at once, edited ones once more after JPEG at quality 60. The map's threshold is the one stored
with the tagger. An own decoder's fakes stand against the authentic pictures of all forged sets, a generator's against
photographs that were equalised as it was. Not here: InternVL2 (``embedded_detector``, ``embedded_words``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from embedded_sets import (
    DRAWN,
    FORGED,
    TAMPERED,
    WHOLE,
    Item,
    bootstrapped,
    detection,
    figure,
    histogram,
    numbers,
    ranked,
    some,
)

from internvl_detect.errors import IvdetectError
from internvl_detect.evaluate.detection import Ranked
from internvl_detect.evaluate.intervals import means
from internvl_detect.evaluate.localization import counts_at, level_of, localization
from internvl_detect.media.degrade import jpeg
from internvl_detect.media.image import open_image
from internvl_detect.model.domain_tag import TAGS, DomainTagger, spread
from internvl_detect.train.material import as_they_are

LATER = 60  # JPEG quality of the second look
OWN = "own"  # the file's own compression
Looks = list[dict[str, Any]]


def look(tagger: DomainTagger, items: Sequence[Item], quality: int | None = None, *, as_files: bool = False) -> Looks:
    """Of each picture that can be read: its item, tag probabilities (T,), histogram of the map against its truth (None
    where the truth of the map is not known)."""
    found: Looks = []
    for at, item in enumerate(items):
        if at % 200 == 199:
            print(f"  {at + 1} of {len(items)} looks", flush=True)
        try:
            picture, truth = open_image(item.row.path).rgb if as_files else item.picture(), item.truth()
            picture = picture if quality is None else jpeg(picture, quality=quality)
            seen = tagger.look(picture)
            known = not item.fake or truth is not None
            drawn = histogram(spread(seen.map, picture.size), truth) if known else None
        except IvdetectError as error:
            print(f"  left out: {error}", flush=True)
            continue
        found.append({"item": item, "p": np.array([seen.probabilities[tag] for tag in TAGS]), "map": drawn})
    return found


def tags(looks: Looks) -> dict[str, Any]:
    """AUC of each tag against the rest, of fake against authentic, and the mean over the tags."""
    names = np.array([one["item"].row.tag for one in looks])
    p, group = np.stack([one["p"] for one in looks]), numbers([one["item"].group for one in looks])
    there = [at for at, tag in enumerate(TAGS) if 0 < (names == tag).sum() < len(names)]
    rows = [Ranked(p[:, at], (names == TAGS[at]).astype(int), None, group) for at in there]
    image = Ranked(1 - p[:, 0], (names != "authentic").astype(int), None, group)

    def values(weights: np.ndarray) -> np.ndarray:
        each = np.array([one.values(weights)[0] for one in rows])
        return np.concatenate([[image.values(weights)[0], each.mean()], each])

    columns = ["image_auc", "macro_auc", *(f"auc_{TAGS[at]}" for at in there)]
    return {"n": len(looks), **bootstrapped(values, columns, int(group.max()) + 1)}


def against(fakes: Looks, real: Looks) -> dict[str, Any]:
    """Image AUC of some fakes against some authentic pictures."""
    both = [*real, *fakes]
    fake = [one["item"].fake for one in both]
    return detection(ranked([1 - one["p"][0] for one in both], fake, [one["item"].group for one in both]))


def image_lines(looks: Looks) -> list[dict[str, Any]]:
    """By generator, by own decoder, by method."""
    lines = []
    pools = {pool: [one for one in looks if one["item"].pool == pool] for pool in (WHOLE, FORGED)}
    for kind, pool, name_of in (
        ("generator", WHOLE, lambda item: item.row.source),
        ("own decoder, or edits", FORGED, lambda item: item.row.source),
        ("method", FORGED, lambda item: item.method),
    ):
        for seen in (True, False):
            real = [one for one in pools[pool] if not one["item"].fake and one["item"].seen == seen]
            fakes = [one for one in pools[pool] if one["item"].fake]
            if pool == FORGED and not seen or not real:
                continue
            against_what = "authentic twins" if pool == FORGED else f"photographs {'of test' if seen else 'never seen'}"
            for name in sorted({name_of(one["item"]) for one in fakes}):
                own = [one for one in fakes if name_of(one["item"]) == name]
                head = {"kind": kind, "of": name, "never_seen": "" if own[0]["item"].seen else "yes"}
                lines.append({**head, "against": against_what, **against(own, real)})
            if kind != "method" and fakes:
                head = {"kind": kind, "of": "all", "never_seen": "", "against": against_what}
                lines.append({**head, **against(fakes, real)})
    return lines


def pixel_lines(looks: Looks, threshold: float, quality: str) -> list[dict[str, Any]]:
    """Pixel figures of edited pictures at the stored threshold: by method, of all of ours, and of others' sets."""
    edited = [one for one in looks if one["item"].row.mask and one["map"] is not None]
    parts: dict[str, Looks] = {}
    for one in edited:
        item = one["item"]
        names = [item.method, "all methods"] if item.pool == FORGED else [f"never seen: {item.row.source}"]
        names += ["never seen: all"] if item.pool == TAMPERED else []
        for name in names:
            parts.setdefault(name, []).append(one)
    lines = []
    for name, own in sorted(parts.items()):
        group = numbers([one["item"].group for one in own])
        found = localization(
            [one["map"] for one in own], group.tolist(), [True] * len(own), threshold=threshold, rounds=300
        )
        (told,) = (line for line in found if line["rule"] == "validation")
        columns = {key: figure(*told[key]) for key in ("pixel_f1", "pixel_iou", "pixel_auc")}
        lines.append({"edited_by": name, "jpeg": quality, "n": len(own), **columns})
    return lines


def untouched_lines(looks: Looks, threshold: float) -> list[dict[str, Any]]:
    """What the map marks in authentic pictures: share with an empty mask (its grade), and of pixels marked."""
    parts: dict[str, Looks] = {}
    for one in looks:
        item = one["item"]
        if not item.fake:
            kind = "authentic twins" if item.pool == FORGED else "photographs of test"
            names = [kind] if item.seen else ["photographs never seen", f"never seen: {item.row.source}"]
            for name in names:
                parts.setdefault(name, []).append(one)
    lines = []
    for name, own in sorted(parts.items()):
        counts = counts_at(np.stack([one["map"] for one in own]), level_of(threshold))
        marked = counts[:, 1] / counts.sum(axis=1)
        values = np.stack([(marked == 0).astype(float), (marked < 0.001).astype(float), marked], 1)
        group = numbers([one["item"].group for one in own])
        n = int(group.max()) + 1
        columns = ("mask_empty", "under_a_thousandth", "share_marked")
        lines.append({"authentic": name, "n": len(own), **bootstrapped(means(values, group, n), columns, n)})
    return lines


def tagger_part(tagger: DomainTagger, items: Sequence[Item]) -> dict[str, Any]:
    """Part a."""
    items = [item for item in items if item.pool != DRAWN]
    looks = look(tagger, items)
    edited = [item for item in items if item.row.mask]
    later = look(tagger, edited, LATER)
    parts = {
        "test split: all": [one for one in looks if one["item"].seen],
        "test split: forged sets": [one for one in looks if one["item"].pool == FORGED],
        "never seen": [one for one in looks if not one["item"].seen],
    }
    known = {name: part for name, part in parts.items() if len({one["item"].fake for one in part}) == 2}
    threshold = tagger.map_threshold
    return {
        "map_threshold": threshold,
        "tags": [{"pictures": name, **tags(part)} for name, part in known.items()],
        "images": image_lines(looks),
        "pixels": pixel_lines(looks, threshold, OWN) + pixel_lines(later, threshold, str(LATER)),
        "untouched": untouched_lines(looks, threshold),
    }


def own_size_part(tagger: DomainTagger, items: Sequence[Item], most: int) -> dict[str, Any]:
    """Part g: whole pictures of sources never seen, up to ``most`` of each, as their files are."""
    own = some((i for i in items if i.pool == WHOLE and not i.seen), most, lambda item: (item.row.source, item.row.tag))
    looks = look(tagger, own, as_files=True)
    return {"images": image_lines(looks), "untouched": untouched_lines(looks, tagger.map_threshold)}


def left_out_part(
    shipped: DomainTagger, left_out: Mapping[Path, Mapping[str, Path | None]], items: Sequence[Item], most: int
) -> dict[str, Any]:
    """Part e: each left out source by the tagger that never saw it.

    A folder of pictures that a generator made stands against photographs never seen; a source of the forged sets
    against authentic twins, with the shipped tagger, which saw it, beside.
    """
    lines: list[dict[str, Any]] = []
    real = some((i for i in items if i.pool == WHOLE and not i.seen and not i.fake), most, lambda item: item.row.source)
    twins = some((i for i in items if i.pool == FORGED and not i.fake), 4 * most, lambda item: item.pool)
    beside = look(shipped, twins)
    for folder, sources in left_out.items():
        tagger = DomainTagger.load(folder, shipped.device)
        against_what = {"photographs never seen": look(tagger, real), "authentic twins": look(tagger, twins)}
        for source, pictures in sources.items():
            if pictures is None:
                own = some((i for i in items if i.fake and i.row.source == source), 4 * most, lambda item: item.pool)
                whose = "authentic twins"
            else:
                rows = as_they_are({source: pictures}, "ai_generated")
                own = some((Item(row, WHOLE) for row in rows), 4 * most, lambda item: item.pool)
                whose = "photographs never seen"
            for name, by, rest in (
                ("never saw it", tagger, against_what[whose]),
                *((("shipped", shipped, beside),) if pictures is None else ()),
            ):
                looks = look(by, own)
                if looks and rest:
                    lines.append({"source": source, "tagger": name, "against": whose, **against(looks, rest)})
                    print(f"  {source}, {name}: AUC {lines[-1]['auc']['value']}", flush=True)
    return {"left_out": sorted(lines, key=lambda line: (line["source"], line["tagger"]))}
