"""Verdicts as one self-contained HTML file: opens anywhere, loads nothing, runs no script, prints well.

    write_report(rows, Path("report.html"), thumbnails={row.path: thumbnail(picture)}, made_with={"version": "0.1.0"})

The page is built card by card, so thousands of files need no more memory than their thumbnails. What is drawn over
pictures and timelines is inline SVG made from numbers only; all text passes through the template's autoescape.
Not here: the wording (``words``), the look (``report.html.j2``), a server's page.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from internvl_detect.data.jsonl import atomically
from internvl_detect.report import words
from internvl_detect.verdict import Failure, Region, Verdict

LONG_SIDE_PX = 480
_QUALITY = 82
_MAGIC = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"))
_MOST_FRAMES = 64  # a filmstrip of more is not looked at

Thumbnails = Mapping[str, bytes | list[bytes]]


def write_report(
    rows: Sequence[words.Row],
    destination: Path,
    *,
    thumbnails: Thumbnails | None = None,
    title: str = "Detection report",
    made_with: Mapping[str, Any] | None = None,
    layers: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the report, whole or not at all, and give its path.

    ``thumbnails`` has JPEG or PNG bytes by the row's path, for a clip a list in the order of its frames; rows without
    one get none. ``layers`` has a PNG by path that is laid over the picture: its mask. ``made_with`` is shown at the
    end (version, adapter, ...); from its "calibration" (as ``Calibration.to_dict()`` gives it) or "thresholds" (low,
    high) come the thresholds. Raises OutputError.
    """
    with atomically(destination) as file:
        for piece in render(rows, thumbnails=thumbnails, title=title, made_with=made_with, layers=layers):
            file.write(piece.encode("utf-8"))
    return Path(destination)


def render(
    rows: Sequence[words.Row],
    *,
    thumbnails: Thumbnails | None = None,
    title: str = "Detection report",
    made_with: Mapping[str, Any] | None = None,
    layers: Mapping[str, bytes] | None = None,
) -> Iterator[str]:
    """The pieces of the page, one after the other."""
    made_with = dict(made_with or {})
    made_with.setdefault("made at", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    verdicts = [row for row in rows if isinstance(row, Verdict)]
    counts = words.count_outcomes(rows)
    limits = words.thresholds(made_with)
    notes = [words.model_notes(v) for v in verdicts]
    shared = [note for note in dict.fromkeys(n for found in notes for n in found) if all(note in f for f in notes)]
    return template().generate(
        title=words.visible(title, 200),
        made_at=words.visible(made_with["made at"], 80),
        summary=words.summary(counts),
        counts=[(name, words.OUTCOMES[name], n) for name, n in counts.items()],
        n_files=len(rows),
        banners=shared,
        uncalibrated=any(not v.calibrated for v in verdicts),
        cards=(_card(row, thumbnails or {}, layers or {}, limits, shared) for row in rows),
        how_to_read=words.HOW_TO_READ,
        facts=words.facts(made_with),
    )


def thumbnail(image: Image.Image, long_side_px: int = LONG_SIDE_PX, quality: int = _QUALITY) -> bytes:
    """A JPEG without metadata whose long side is at most ``long_side_px``; small pictures are not enlarged."""
    scale = min(1.0, long_side_px / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    small = rgb if size == rgb.size else rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    bare = Image.new("RGB", small.size)
    bare.paste(small)
    out = io.BytesIO()
    bare.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


@cache
def template(name: str = "report.html.j2") -> jinja2.Template:
    """A page of this folder, with autoescape on and no undefined names."""
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _card(
    row: words.Row,
    thumbnails: Thumbnails,
    layers: Mapping[str, bytes],
    limits: tuple[float, float] | None,
    shared: list[str],
) -> dict[str, Any]:
    """What the template shows of one row; every text is visible text, every position a percentage."""
    path = words.visible(row.path, 1000)
    cut = max(path.rfind("/"), path.rfind("\\")) + 1
    card: dict[str, Any] = {
        "outcome": words.outcome(row),
        "headline": words.headline(row),
        "folder": path[:cut],
        "name": path[cut:] or path,
    }
    if isinstance(row, Failure):
        return {**card, "error": words.visible(row.error), "exit_code": row.exit_code}
    pictures = _data_uris(thumbnails.get(row.path))
    strip = _filmstrip(row, pictures)
    return {
        **card,
        "error": "",
        "kind": "Clip" if row.kind == "video" else "Picture",
        "explanation": words.explanation(row),
        "number": words.number_in_short(row),
        "number_meaning": words.number_meaning(row),
        "calibrated": row.calibrated,
        "stretch": words.stretch_words(row),
        "picture": _best_picture(row, pictures),
        "layer": _data_uri(layers.get(row.path, b"")),
        "filmstrip": strip if len(strip) > 1 else [],
        "regions": _regions(row),
        "timeline": _timeline(row),
        "gauge": _gauge(row.probability, limits),
        "words": words.visible(row.words or ""),
        "tag": words.tag_words(row),
        "reasons": words.reason_rows(row),
        "contradictions": [words.visible(said) for said in row.reasons.contradictions] if row.reasons else [],
        "evidence": [
            {
                "source": words.evidence_name(e),
                "strength": words.strength(e),
                "summary": words.visible(e.summary),
                "score": None if e.score is None else words.number(e.score, 2),
                "disagrees": words.disagrees(row, e),
                "details": words.facts({k: v for k, v in e.details.items() if k not in ("strength", "says")}),
            }
            for e in row.evidence
        ],
        "model_notes": [note for note in words.model_notes(row) if note not in shared],  # the others stand on top
        "file_notes": words.file_notes(row),
        "details": list(_details(row, limits)),
    }


def _details(verdict: Verdict, limits: tuple[float, float] | None) -> Iterator[tuple[str, str]]:
    yield "Raw score", words.number(verdict.score)
    yield "Probability", words.number(verdict.probability) + ("" if verdict.calibrated else " (the raw score itself)")
    if limits:
        yield (
            "Thresholds",
            f"no sign below {words.number(limits[0], 2)}, likely fake above {words.number(limits[1], 2)}",
        )
    yield "Decision", words.visible(verdict.decision, 80)
    yield "Likeliest kind", words.visible(verdict.label, 80).replace("_", " ")
    yield "Model and adapter", words.visible(verdict.model, 300)
    yield "Calibration", "fitted on files of known label" if verdict.calibrated else "none"
    if verdict.mask_share is not None:
        yield "Marked by the mask", f"{verdict.mask_share:.1%} of the picture"
    if verdict.width and verdict.height:
        yield "Size", f"{verdict.width} × {verdict.height} px"
    if verdict.sha256:
        yield "SHA-256", words.visible(verdict.sha256, 80)
    if verdict.timings:
        yield "Seconds", ", ".join(f"{words.visible(k, 40)} {words.number(v, 3)}" for k, v in verdict.timings.items())


def _data_uris(given: bytes | list[bytes] | None) -> list[str]:
    """Pictures as data URIs; "" for bytes that are neither JPEG nor PNG, so that positions keep their frame."""
    found = [] if given is None else [given] if isinstance(given, bytes) else list(given)
    return [_data_uri(data) for data in found[:_MOST_FRAMES]]


def _data_uri(data: bytes) -> str:
    kind = next((name for magic, name in _MAGIC if data.startswith(magic)), None)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}" if kind else ""


def _best_picture(verdict: Verdict, pictures: list[str]) -> str:
    """The picture of a card; of a clip's frames the one with the highest score."""
    if len(pictures) != len(verdict.frames) or not pictures:
        return next((p for p in pictures if p), "")
    return pictures[max(range(len(pictures)), key=lambda i: _finite(verdict.frames[i].score))]


def _filmstrip(verdict: Verdict, pictures: list[str]) -> list[dict[str, Any]]:
    frames = verdict.frames if len(verdict.frames) == len(pictures) else (None,) * len(pictures)
    part = verdict.stretch
    return [
        {
            "picture": picture,
            "time": words.clock(frame.time_s) if frame else "",
            "score": words.number(frame.score, 2) if frame else "",
            "inside": bool(frame and part and part.start_s <= frame.time_s <= part.end_s),
        }
        for frame, picture in zip(frames, pictures, strict=True)
        if picture
    ]


def _regions(verdict: Verdict) -> dict[str, Any] | None:
    """Boxes in picture pixels and the picture's size as the SVG's own coordinates; None without boxes or size."""
    if not verdict.regions:
        return None
    boxes = [_box(r) for r in verdict.regions]
    width, height = int(verdict.width or 0), int(verdict.height or 0)
    return {"width": width, "height": height, "drawn": width > 0 and height > 0, "boxes": boxes}


def _box(region: Region) -> dict[str, Any]:
    x0, y0, x1, y1 = (int(v) for v in region.box_xyxy)
    return {
        "x": min(x0, x1),
        "y": min(y0, y1),
        "width": abs(x1 - x0),
        "height": abs(y1 - y0),
        "score": words.number(region.score, 2),
        "area": words.area_words(region),
        "sentence": words.visible(region.sentence or ""),
    }


def _timeline(verdict: Verdict) -> dict[str, Any] | None:
    """A clip's frame scores over seconds, as percentages of the drawing; y grows downwards as in SVG."""
    frames = sorted((f for f in verdict.frames if math.isfinite(f.time_s + f.score)), key=lambda f: f.time_s)
    if not frames:
        return None
    part = verdict.stretch
    end = max(frames[-1].time_s, part.end_s if part and math.isfinite(part.end_s) else 0.0) or 1.0
    points = [
        {
            "x": _percentage(f.time_s / end),
            "y": _percentage(1 - f.score),
            "score": words.number(f.score, 2),
            "time": words.clock(f.time_s),
            "frame": f.index,
        }
        for f in frames
    ]
    shaded = None
    if part and math.isfinite(part.start_s + part.end_s):
        left, right = _percentage(part.start_s / end), _percentage(part.end_s / end)
        shaded = {"x": min(left, 99.0), "width": max(right - left, 1.0)}
    ticks = [{"x": 25 * i, "time": words.clock(end * i / 4)} for i in range(5)]
    return {"points": points, "line": " ".join(f"{p['x']},{p['y']}" for p in points), "shaded": shaded, "ticks": ticks}


def _gauge(probability: float, limits: tuple[float, float] | None) -> dict[str, Any] | None:
    """Where the probability stands between the thresholds, in percent; None for a number that is none."""
    if not math.isfinite(probability):
        return None
    at, low, high = map(_percentage, (probability, *(limits or (0.0, 1.0))))
    apart = [low, high] if high - low >= 8 else [low]
    labels = [v for v in apart if 12 <= v <= 88]  # nearer to an end they would cover its word
    return {"at": at, "low": low, "high": high, "labels": labels, "known": limits is not None}


def _percentage(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 2)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -1.0
