"""IPTC-IIM, the older record of captions and credits inside JPEG and TIFF files: some datasets, as bounded texts.

Layout by IPTC-NAA IIM 4.2, chapter 1: 0x1C, record, dataset, length, bytes. Not here: what the values mean.
"""

from __future__ import annotations

_NAMES = {
    5: "ObjectName", 25: "Keywords", 40: "SpecialInstructions", 55: "DateCreated", 65: "OriginatingProgram",
    80: "By-line", 105: "Headline", 110: "Credit", 115: "Source", 116: "CopyrightNotice", 120: "Caption",
}  # fmt: skip
_MOST = 100


def read_iim(data: bytes, most_text: int) -> dict[str, str]:
    """Datasets of record 2 that ``_NAMES`` knows, the first of each; stops at the first thing that is none."""
    kept: dict[str, str] = {}
    at = 0
    for _ in range(_MOST):
        head = data[at : at + 5]
        if len(head) < 5 or head[0] != 0x1C or head[3] & 0x80:  # lengths over 32767 are no text
            break
        size = int.from_bytes(head[3:5], "big")
        name = _NAMES.get(head[2]) if head[1] == 2 else None
        if name and name not in kept:
            kept[name] = data[at + 5 : at + 5 + min(size, most_text)].decode("utf-8", "replace")
        at += 5 + size
    return kept
