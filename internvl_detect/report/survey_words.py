"""What a survey found, in plain words: for each kind of finding what it means and what to do about it.

    for line in summary(report):      # report: ``survey.survey_report``
        print(line["n"], line["what"], line["do"])

Not here: the single findings, which say it of their file (``data.survey``, ``data.readers``); the page (``survey``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLAIN = {
    "no-rows": ("no file to look at", "name a folder that holds datasets, or a manifest"),
    "missing-file": ("files that are listed and not there", "get them again, or take them off the list"),
    "unreadable-media": ("files that cannot be opened", "get them again, or leave them out"),
    "damaged-media": ("JPEGs damaged in the middle", "get them again, or leave them out"),
    "missing-mask": ("masks that are listed and not there", "get them again, or take them off the list"),
    "unreadable-mask": ("masks that cannot be opened", "get them again"),
    "mask-size": (
        "masks of another size than their picture",
        "find the right ones; until then nothing is asked about where",
    ),
    "duplicate-leak": ("copies of a file in two splits", "leave one of each out: a test on it measures memory"),
    "duplicate-label": ("copies of a file, one labelled real, one fake", "find out which label is right"),
    "group-split": ("sources with files in two splits", "split by source; preparing leaves out the later ones"),
    "outside-root": ("paths that lead out of the folder; not opened", "copy these files into it"),
    "bad-row": ("lines of a list that cannot be read", "correct these lines"),
    "manifest": ("lines of a manifest that cannot be read", "correct these lines"),
    "listing": ("a dataset's own lists that cannot be read", "get them again"),
    "bad-json": ("lists that are no JSON, or cut off", "get them again"),
    "media-path": ("explanations without the path of a picture", "correct these, or leave them out"),
    "conversations": ("explanations without an answer", "correct these, or leave them out"),
    "answer-form": ("explanations that say neither fake nor real", "correct these, or leave them out"),
    "ambiguous-file": ("explanations that fit several pictures", "keep one picture of each name below the root"),
    "label-contradiction": ("explanations that contradict their picture's label", "find out which is right"),
    "label-clash": ("folders of one label inside another; not read", "give each label a folder of its own"),
    "name-not-text": ("names that are not UTF-8; not read", "rename these files"),
    "link-outside": ("links out of the folder; not followed", "copy what they lead to into it"),
    "link-broken": ("links to nothing", "remove them"),
    "link-loop": ("links in a circle; not followed", "remove them"),
    "too-deep": ("folders nested too deeply; not read", "move what they hold upwards"),
    "unreadable-folder": ("folders that may not be read", "give yourself the permission"),
    "not-a-file": ("pipes or devices; not read", "remove them"),
    "lost": ("files that ended the process that opened them", "leave them out"),
    "shortcut": ("shortcuts: ways to tell the label without looking at the picture", "see below"),
    "label-balance": ("sets with hardly any real, or hardly any fake, files", "add the missing side"),
    "no-label": ("pictures that nothing labels; not read", "put them in folders real and fake, or into a manifest"),
    "packed": ("archives; not read", "unpack them"),
    "near-duplicate-leak": ("files that look like one of another split", "look at them; give copies one group_id"),
    "duplicate": ("copies of a file", "leave one of each out: copies count double"),
    "near-duplicate": ("files that look like another", "look at some; nothing to do for series of one scene"),
    "near-duplicate-label": (
        *(
            "a real file and a fake that look alike, of two sources",
            "give an edited picture and its original one group_id",
        ),
    ),
    "mask-missing": ("tampered pictures whose mask was not found", "without one they get no question about where"),
    "no-mask": ("sets with tampered pictures without mask", "without one they get no question about where"),
    "no-masks": ("sets without any mask", "put the masks beside the pictures, in a folder called mask"),
    "mask-orphan": ("masks without picture", "get the pictures, or remove the masks"),
    "mask-format": ("folders of masks that are no pictures", "write them as PNG"),
    "mask-empty": ("masks that are all black", "find the right ones: these mark nothing"),
    "mask-full": ("masks that are all white", "right only where the whole picture was changed"),
    "mask-dark": ("masks without white", "write 255 for what was changed"),
    "mask-grey": (
        "masks that are not black and white",
        "what is brighter than half of its brightest counts as changed; see that it fits",
    ),
    "listed-twice": ("files that are listed twice", "remove one line of each"),
    "case-clash": ("names that differ in case only", "rename one: some disks keep only one of them"),
    "case-twins": (
        "names that differ in case, or the coding of an accent, only",
        "rename one: some disks keep only one of them",
    ),
    "name-control": ("names with line breaks or the like", "rename these files"),
    "link-folder": ("links to folders inside a set; not followed", "copy what they lead to"),
    "link-twice": ("links to what is read under its own name", "nothing; it is read once"),
    "unknown-column": ("columns of a manifest that are not read", "look for a misspelt name"),
}


def summary(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``level``, ``code``, ``n``, ``what`` and ``do`` of each kind of finding: errors first, in the order of PLAIN."""
    levels = {finding["code"]: finding["level"] for finding in report["findings"]}
    order = {code: place for place, code in enumerate(PLAIN)}
    lines = []
    for code in sorted(report["by_code"], key=lambda c: (levels.get(c, "warning"), order.get(c, len(order)), c)):
        what, do = PLAIN.get(code, (code, ""))
        lines.append(
            {"level": levels.get(code, "warning"), "code": code, "n": report["by_code"][code], "what": what, "do": do}
        )
    return lines
