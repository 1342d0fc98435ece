"""From a job that was asked about to its Verdict: score, decision, evidence, regions, and what the words say.

Here the parts meet: InternVL2's log odds, the domain tagger's look, the mask, and what the file says of itself. Words
decide nothing. Not here: asking (``jobs``), looking and drawing (``looking``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from internvl_detect.data.forge.words import place_of
from internvl_detect.detect.aggregate import synthetic_stretch
from internvl_detect.detect.interface import Job, Wanted, model_score, score_of, tag_score
from internvl_detect.explanations import Reasons, checked, read, sentence_for
from internvl_detect.media.image import Image
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.fusion import Fusion
from internvl_detect.verdict import Decision, Evidence, Frame, Label, Region, Verdict

if TYPE_CHECKING:
    from internvl_detect.model.copies import Copied

TAG_NAMES = {
    "authentic": "authentic",
    "ai_generated": "generated as a whole",
    "aigc_editing": "edited by a generator",
    "deepfake": "a face swapped or altered",
    "photoshop": "edited by hand",
}

SURE_SIDE = 0.8  # below, the words do not say which of two equal contents is the copy

LABELS: dict[str, Label] = {
    "ai_generated": "ai_generated",
    "aigc_editing": "tampered",
    "deepfake": "deepfake",
    "photoshop": "tampered",
}


def verdict_of(
    job: Job, *, loaded: Any, calibration: Calibration, wanted: Wanted, mask_threshold: float | None
) -> Verdict:
    """The verdict. ``mask_threshold``: at which a mask marks; None where none is drawn."""
    score = score_of(job)
    probability = calibration.probability(score)
    decision = calibration.decide(probability)
    label = _label(job)
    notes = [*job.media.notes, *job.notes, *job.origin.notes]
    evidence = [*job.origin.evidence]
    if job.looks:
        decision, found, said = _looked(job, decision, probability)
        evidence += found
        notes += said
    if reason := job.origin.decides:
        notes.insert(0, decided_by_record(calibration.decide(probability), probability))
        decision, label = "fake", reason.details["says"]
    if loaded.settings.about:
        notes.insert(0, loaded.settings.about)
    if not calibration.fitted:
        notes.append("not calibrated: the probability is the raw score and the thresholds are defaults")
    frames, stretch = _frames(job), None
    if frames:
        stretch = synthetic_stretch(frames) if probability >= calibration.low else None
    whole = job.drawn.get(0) if job.media.kind == "image" else None
    regions = (*(whole.regions if whole else ()), *_suspicious_tiles(job, calibration))
    reasons = _reasons(job, decision, wanted)
    if reasons and whole:
        size = (whole.mask.shape[1], whole.mask.shape[0])
        regions = tuple(replace(r, sentence=r.area_px and sentence_for(reasons, r.box_xyxy, size)) for r in regions)
    look = job.looks[job.worst_look()] if job.looks else None
    return Verdict(
        path=job.name,
        kind=job.media.kind,
        score=score,
        probability=probability,
        decision=decision,
        label=label,
        model=loaded.name,
        timings={k: round(v, 6) for k, v in job.timings.items()} | {"total_s": round(sum(job.timings.values()), 6)},
        calibrated=calibration.fitted,
        words=job.words,
        frames=frames,
        stretch=stretch,
        regions=regions,
        evidence=tuple(evidence),
        notes=tuple(notes),
        width=job.media.width,
        height=job.media.height,
        sha256=job.media.sha256,
        reasons=reasons,
        domain_tag=look.tag if look else None,
        tag_probabilities={k: round(v, 6) for k, v in look.probabilities.items()} if look else {},
        mask_share=whole.share if whole else None,
        mask_threshold=mask_threshold if job.drawn else None,
        mask=whole.mask if whole else None,
    )


def _label(job: Job) -> Label:
    """What kind of fake it would be: as the tagger's likeliest tag of a fake says where its score counts, else as
    InternVL2 does."""
    if job.kind_of_fake is None:
        return "real"
    if job.fusion and job.looks:
        shares = job.looks[job.worst_look()].probabilities
        return LABELS[max(LABELS, key=lambda tag: shares[tag])]
    return job.kind_of_fake  # type: ignore[return-value]


def decided_by_record(decision: str, probability: float) -> str:
    """The note of a verdict that a signed record decided, with what the pixels alone would have given."""
    return (
        "decided by the file's valid Content Credentials (C2PA), which say that AI made it or a part of it; "
        f"from the pixels alone it would be: {decision}, probability {probability:.3f}"
    )


def _looked(job: Job, decision: Decision, probability: float) -> tuple[Decision, list[Evidence], list[str]]:
    """The decision that is left beside the tagger's look, the evidence of both parts, and notes."""
    own, tag = model_score(job), tag_score(job)
    look = job.looks[job.worst_look()]
    name, share = TAG_NAMES[look.tag], look.probabilities[look.tag]
    frame = "" if job.media.kind == "image" else "the most suspicious frame: "
    details: dict[str, Any] = {
        "tag": look.tag,
        "probabilities": {k: round(v, 4) for k, v in look.probabilities.items()},
    }
    # Where the probability is of the fused score, the model's own part has only its raw score.
    # A copy is a third witness.
    apart = job.copied is None and (job.fusion or Fusion()).disagree(own if job.fusion else probability, tag)
    notes = []
    if apart:
        details["disagrees"] = True
        notes = [
            f"InternVL2 (P(fake) {own:.2f}) and the domain tagger ({tag:.2f}, {name}) disagree: the decision is unsure"
        ]
    summary = f"{frame}a first look says: {name} ({share:.0%})"
    if look.semantic > 0:
        details["semantic"] = round(look.semantic, 2)
        summary += ", by what it shows too" if look.tag == "ai_generated" and look.semantic >= 1 else ""
    if not look.tells:
        summary += ", if it is a forgery: this tagger has no class for authentic pictures"
    found = [Evidence("domain_tag", summary, tag if look.tells else None, details)]
    if job.fusion:
        found.append(Evidence("internvl2", "InternVL2's own score, before it was fused with the first look's", own))
    if job.copied is not None:
        found.append(_copied(job.copied))
    return ("unsure" if apart else decision), found, notes


def _copied(copied: Copied) -> Evidence:
    to, source = place_of(copied.copy), place_of(copied.source) if copied.source.any() else ""
    summary = f"the {to} part shows what stands in the {source} part too" if source else f"the {to} part is a copy"
    summary += ", left and right exchanged" if copied.mirrored else ""
    if copied.certain < SURE_SIDE:
        summary += "; which of them is the copy is not certain"
    details = {"strength": "strong", "says": "tampered", "copy": to, "source": source, "mirrored": copied.mirrored}
    return Evidence("copy_move", summary, copied.score, details)


def _reasons(job: Job, decision: Decision, wanted: Wanted) -> Reasons | None:
    """What the words say, held against verdict and mask; None without words, or where they answer another question."""
    if job.words is None or job.own is not None or not wanted.in_english:
        return None
    drawn = job.drawn.get(job.worst_look()) if job.drawn else None
    if drawn is None:
        return checked(read(job.words), decision=decision)
    size = (drawn.mask.shape[1], drawn.mask.shape[0])
    return checked(read(job.words), decision=decision, boxes_xyxy=[r.box_xyxy for r in drawn.regions], size_wh=size)


def _suspicious_tiles(job: Job, calibration: Calibration) -> tuple[Region, ...]:
    found = [Region(box, score) for box, score in zip(job.boxes, job.scores("tile"), strict=True)]
    return tuple(sorted((r for r in found if calibration.probability(r.score) >= 0.5), key=lambda r: -r.score))


def _frames(job: Job) -> tuple[Frame, ...]:
    if isinstance(job.media, Image) or job.media.kind == "image":
        return ()
    times = dict(zip(job.media.indices, job.media.times_s, strict=True))  # a short clip's frames are repeated
    frames = [Frame(i, t, s) for (i, t), s in zip(times.items(), job.scores("frame"), strict=True)]
    for k, drawn in job.drawn.items():
        frames[k] = replace(frames[k], mask_share=drawn.share, mask=drawn.mask)
    return tuple(frames)
