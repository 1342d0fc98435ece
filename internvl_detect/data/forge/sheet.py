"""A sheet to look at: for each method in a set of forgeries, authentic twin, forgery and mask side by side.

Reads what ``forge_folder`` wrote. Not a report on quality, and not a judge.

    python -m internvl_detect.data.forge.sheet forged sheet.jpg
"""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from internvl_detect.data.forge.item import write
from internvl_detect.data.forge.journal import RECORDS
from internvl_detect.data.jsonl import read_lines
from internvl_detect.errors import DataError
from internvl_detect.media.image import open_image

CELL_PX, LABEL_PX, GAP_PX = 150, 16, 6
LOOKED_AT = 50  # photographs of each method to choose from, so that one is not shown again and again


def make_sheet(folder: str | Path, path: str | Path, *, each: int = 2, quality: int = 80) -> Path:
    """A JPEG of ``each`` forgeries of every method, a row of two forgeries, three pictures for each.

    Raises DataError for a folder without records, MediaError for a picture that cannot be read, OutputError.
    """
    folder = Path(folder)
    if not (folder / RECORDS).is_file():
        raise DataError(f"{folder} holds no {RECORDS}", expected="a folder made by 'ivdetect data forge'")
    found: dict[str, dict[str, dict[str, Any]]] = {}  # method -> photograph -> its first forgery
    with open(folder / RECORDS, "rb") as file:
        for _, _, raw in read_lines(file):
            record = json.loads(raw or b"{}")
            if record.get("kind") == "image" and len(found.setdefault(record["method"], {})) < LOOKED_AT:
                found[record["method"]].setdefault(record["name"], record)
    used: Counter[str] = Counter()
    shown = []
    for method in sorted(found):
        for name in sorted(found[method], key=lambda name: (used[name], name))[:each]:
            used[name] += 1
            shown.append(found[method][name])
    if not shown:
        raise DataError(f"{folder} holds no forged pictures")
    width, height = 3 * CELL_PX + GAP_PX, CELL_PX + LABEL_PX
    rows = (len(shown) + 1) // 2
    sheet = Image.new("RGB", (2 * width - GAP_PX, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, record in enumerate(shown):
        x, y = i % 2 * width, i // 2 * height
        draw.text((x + 2, y + 2), f"{record['method']}: authentic, forged, mask", fill="black")
        for j, name in enumerate((record["authentic"], record["path"], record["mask"])):
            cell = open_image(folder / name).rgb if name else Image.new("RGB", (8, 8), "white")
            cell.thumbnail((CELL_PX - 2, CELL_PX - 2))
            sheet.paste(cell, (x + j * CELL_PX, y + LABEL_PX))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=quality)
    write(Path(path), buffer.getvalue())
    return Path(path)


if __name__ == "__main__":
    print(make_sheet(sys.argv[1], sys.argv[2]))
