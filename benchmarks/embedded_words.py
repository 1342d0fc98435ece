"""Parts b and d of ``embedded.py``: words and masks of held-out forgeries, held against what was done; and speed.

Words are those of ``ivdetect detect --explain --masks``, read back by ``data.forge.words`` and compared with the record
of the forgery. The mask is the head's at its own threshold; beside it the tagger's map alone, at the tagger's, on the
same pictures. Times are wall clock on this machine with the threads that are told. Not here: detection.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from embedded_sets import FORGED, Item, bootstrapped, figure, histogram, numbers, some
from PIL import Image
from pipeline import pictures

from internvl_detect.data.forge.words import facts_of, facts_of_record
from internvl_detect.detect import Detector
from internvl_detect.evaluate.intervals import means, paired
from internvl_detect.evaluate.localization import counts_at, level_of, pixel_auc, shares
from internvl_detect.evaluate.text import facts_compared
from internvl_detect.media.image import open_image
from internvl_detect.model.domain_tag import spread
from internvl_detect.verdict import Failure

RIGHT = ("fake_said", "place_right", "method_right", "both_right")
DRAWN = ("pixel_f1", "pixel_iou", "pixel_auc")
CLIP_S, CLIP_FPS, CLIP_WH = 10, 25, (640, 360)


def forgeries(items: Sequence[Item], most: int) -> list[Item]:
    """About ``most`` forgeries of the test split, the same number of each method as far as there are."""
    own = [item for item in items if item.record is not None and item.pool == FORGED]
    methods = sorted({item.method for item in own})
    return some(own, -(-most // max(len(methods), 1)), lambda item: item.method)[:most] if own else []


def words_part(detector: Detector, items: Sequence[Item], most: int) -> dict[str, Any]:
    """Part b."""
    chosen = forgeries(items, most)
    twins = [item for item in items if item.pool == FORGED and not item.fake]
    twins = some(twins, max(1, most // 4), lambda item: 0)
    every = [*chosen, *twins]
    masker, tagger = detector.looker.masker, detector.looker.tagger
    rows: list[dict[str, Any]] = []
    said = detector.detect_many([item.row.path for item in every], explain=True, mask=True, batch_size=8, workers=1)
    for at, (item, verdict) in enumerate(zip(every, said, strict=True)):
        if at % 20 == 19:
            print(f"  {at + 1} of {len(every)} explained", flush=True)
        if isinstance(verdict, Failure):
            print(f"  left out: {verdict.error}", flush=True)
            continue
        row: dict[str, Any] = {"item": item, "words": verdict.words or ""}
        if item.row.mask or not item.fake:
            picture, truth = open_image(item.row.path).rgb, item.truth()
            row["head"] = histogram(np.asarray(verdict.mask, np.float32) / 255, truth)
            row["map"] = histogram(spread(tagger.look(picture).map, picture.size), truth)
        rows.append(row)
    levels = {"head": level_of(masker.threshold), "map": level_of(tagger.map_threshold)}
    edited = [row for row in rows if row["item"].fake]
    return {
        "masks_by": masker.kind,
        "words": word_lines(edited),
        "words_of_authentic": _authentic_words([row for row in rows if not row["item"].fake]),
        "masks": mask_lines([row for row in edited if "head" in row], levels),
        "masks_of_authentic": _empty([row for row in rows if not row["item"].fake], levels),
        "examples": [_example(row) for row in edited[:: max(1, len(edited) // 8)]],
    }


def judged(item: Item, words: str) -> list[float]:
    """RIGHT of one text, 1 or 0 each."""
    true, said = facts_of_record(item.record or {}), facts_of(words)
    place, method = said.place == true.place, said.method == true.method
    fake = facts_compared(words, item.record["words"] if item.record else "")["fake"]
    return [fake, float(place), float(method), float(place and method)]


def word_lines(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares of right words by method and over all, which weighs methods as they were drawn: evenly."""
    lines = []
    for method in ["all", *sorted({row["item"].method for row in rows})] if rows else ():
        own = [row for row in rows if method in ("all", row["item"].method)]
        group = numbers([row["item"].group for row in own])
        n = int(group.max()) + 1
        values = means(np.array([judged(row["item"], row["words"]) for row in own]), group, n)
        lines.append({"method": method, "n": len(own), **bootstrapped(values, RIGHT, n)})
    return lines


def _authentic_words(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    group = numbers([row["item"].group for row in rows])
    n = int(group.max()) + 1
    true = "The picture is authentic."
    values = means(np.array([[facts_compared(row["words"], true)["fake"]] for row in rows]), group, n)
    return [{"authentic": "twins", "n": len(rows), **bootstrapped(values, ("said_authentic",), n)}]


def _example(row: dict[str, Any]) -> dict[str, str]:
    item = row["item"]
    return {"method": item.method, "place": (item.record or {}).get("place", "whole"), "words": row["words"]}


def mask_lines(rows: Sequence[dict[str, Any]], levels: dict[str, int]) -> list[dict[str, Any]]:
    """Mean figures of the head's masks and of the tagger's maps, and their paired difference, by method."""
    lines = []
    for method in ["all", *sorted({row["item"].method for row in rows})] if rows else ():
        own = [row for row in rows if method in ("all", row["item"].method)]
        group = numbers([row["item"].group for row in own])
        n = int(group.max()) + 1
        values, once = [], np.ones(n, np.int64)
        for which in ("map", "head"):
            found = np.stack([row[which] for row in own])
            f1_iou = shares(counts_at(found, levels[which]))[:, :2]
            values.append(means(np.column_stack([f1_iou, pixel_auc(found)]), group, n))
        of_map, less = paired(values, n, rounds=500)
        lines.append({"method": method, "n": len(own), "drawn_by": "tagger's map"} | _three(values[0](once), of_map))
        lines.append({"method": method, "n": len(own), "drawn_by": "mask", **bootstrapped(values[1], DRAWN, n)})
        difference = values[1](once) - values[0](once)
        lines.append({"method": method, "n": len(own), "drawn_by": "mask less map"} | _three(difference, less))
    return lines


def _three(value: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return {name: figure(*one) for name, *one in zip(DRAWN, value, *bounds, strict=True)}


def _empty(rows: Sequence[dict[str, Any]], levels: dict[str, int]) -> list[dict[str, Any]]:
    lines = []
    for which in ("map", "head") if rows else ():
        group = numbers([row["item"].group for row in rows])
        counts = counts_at(np.stack([row[which] for row in rows]), levels[which])
        values = means((counts[:, :1] + counts[:, 1:2] == 0).astype(float), group, int(group.max()) + 1)
        name = {"map": "tagger's map", "head": "mask"}[which]
        lines.append({"drawn_by": name, "n": len(rows), **bootstrapped(values, ("empty",), int(group.max()) + 1)})
    return lines


def timed(one: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median, least and most seconds of ``repeats`` runs after one that does not count."""
    one()
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        one()
        spent.append(time.perf_counter() - began)
    return {"median_s": round(statistics.median(spent), 4), "least_s": min(spent), "most_s": max(spent)}


def clip(path: Path) -> None:
    """CLIP_S seconds of drifting scenery with grain, H.264."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
    scene = np.asarray(coarse.resize(CLIP_WH, Image.Resampling.BICUBIC)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = *CLIP_WH, "yuv420p"
        for i in range(CLIP_S * CLIP_FPS):
            frame = np.roll(scene, 2 * i, 1) + rng.integers(-6, 7, (*scene.shape[:2], 1), dtype=np.int16)
            made = av.VideoFrame.from_ndarray(np.clip(frame, 0, 255).astype(np.uint8), format="rgb24")
            for packet in stream.encode(made):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def speed_part(detector: Detector, repeats: int) -> dict[str, Any]:
    """Part d: the tagger, the whole detector with its model loaded, and a clip; scenes made here."""
    lines, tagger = [], detector.looker.tagger
    with tempfile.TemporaryDirectory() as temporary:
        files = pictures(Path(temporary), 4)
        for file in files:
            picture = Image.open(file).convert("RGB")
            mega = picture.width * picture.height / 1e6
            size = f"{picture.width}x{picture.height}"
            told = timed(lambda picture=picture: tagger.look(picture), repeats)
            per = {"s_a_megapixel": round(told["median_s"] / mega, 4)}
            lines.append({"what": "tagger", "input": size, **told, **per})
            for what, options in (("detect", {}), ("detect, words and mask", {"explain": True, "mask": True})):
                told = timed(lambda file=file, options=options: detector.detect(file, **options), repeats)
                lines.append({"what": what, "input": size, **told})
        moving = Path(temporary) / "clip.mp4"
        clip(moving)
        told = timed(lambda: detector.detect(moving), max(3, repeats // 2))
        size = f"{CLIP_S} s of {CLIP_WH[0]}x{CLIP_WH[1]} at {CLIP_FPS} a second"
        lines.append({"what": "detect a clip, 8 frames", "input": size, **told})
    for line in lines:
        line |= {name: round(line[name], 4) for name in ("least_s", "most_s")}
        print(f"  {line['what']}, {line['input']}: {line['median_s']} s", flush=True)
    return {"threads": torch.get_num_threads(), "repeats": repeats, "speed": lines}
