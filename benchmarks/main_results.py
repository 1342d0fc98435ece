"""The main table: the nano model, the domain tagger and every baseline on the same equalised pictures, with intervals.

DATA is a folder with manifest.csv. The pictures are divided by group: one half is the test of every row of the table.
What is fitted is fitted twice: on forged twins made from photographs of the other half (both classes have the same
content), and on that half itself with its own labels. Clips are left out. Writes OUT/main.json and OUT/main.md.

    python benchmarks/main_results.py DATA --limit 60 --out results
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nano_eval import scores as nano_scores
from PIL import Image

from internvl_detect.data.forge import Finish, forge
from internvl_detect.data.manifest import ManifestRow, place_group, read_manifest
from internvl_detect.errors import IvdetectError
from internvl_detect.evaluate.baselines import BASELINES, Baseline, scored
from internvl_detect.evaluate.equalise import RULE, common_side, equalise, rng_of
from internvl_detect.evaluate.metrics import balanced_accuracy, counts_at, fake_accuracy, real_accuracy
from internvl_detect.evaluate.robustness import point
from internvl_detect.media.image import open_image
from internvl_detect.model.checkpoint import load_base

TWINS = ("splice", "copy_move", "resample", "resample_whole")


class Nano:
    """The embedded model behind the interface of baselines; its raw P(fake)."""

    name, fits = "nano InternVL2", False

    def __init__(self) -> None:
        self._loaded = load_base("nano")

    def scores(self, pictures: Sequence[Image.Image]) -> list[float]:
        """Raw P(fake) of each."""
        return nano_scores(self._loaded, pictures)


def twins(photographs: Sequence[tuple[str, Image.Image]], side: int) -> tuple[list[Image.Image], list[int]]:
    """Authentic and forged twins of each photograph, finished alike; those that cannot be forged are left out."""
    pictures, fake = [], []
    for i, (name, picture) in enumerate(photographs):
        rng = rng_of(name, 1)
        rgb, donor = np.asarray(picture), np.asarray(photographs[i - 1][1])
        try:
            edited, _, _ = forge(rgb, TWINS[i % len(TWINS)], rng, donor=donor)
        except IvdetectError:
            continue
        finish = Finish.draw(rng)
        for y, values in enumerate((rgb, edited)):
            pictures.append(equalise(open_image(finish.apply(values)).rgb, rng_of(f"{name}/twin"), side_px=side))
            fake.append(y)
    return pictures, fake


def chosen(rows: Sequence[ManifestRow], limit: int) -> list[ManifestRow]:
    """At most ``limit`` pictures of each label and kind, evenly over the list."""
    parts: dict[tuple[str, str], list[ManifestRow]] = defaultdict(list)
    for row in rows:
        if not row.is_video:
            parts[(row.label, row.kind)].append(row)
    return [own[i] for own in parts.values() for i in range(0, len(own), max(1, -(-len(own) // limit)))]


def figures(
    name: str, fitted: str, found: list[tuple[float | None, str]], rows: Sequence[ManifestRow]
) -> dict[str, Any]:
    """One line of the table."""
    fake, groups = [int(r.label != "real") for r in rows], [r.group for r in rows]
    at = point("none", "", [s for s, _ in found], fake, groups)
    kept = [(s, y) for (s, _), y in zip(found, fake, strict=True) if s is not None]
    counts = counts_at([s for s, _ in kept], [y for _, y in kept])
    shares = {"balanced": balanced_accuracy(counts), "real": real_accuracy(counts), "fake": fake_accuracy(counts)}
    return {"system": name, "fitted": fitted, **at.to_dict(), **{k: round(v, 4) for k, v in shares.items()}}


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    head = "| system | fitted on | AUC | 95 % | balanced acc. | real acc. | fake acc. | failed |\n|" + "---|" * 8 + "\n"
    return head + "".join(
        f"| {r['system']} | {r['fitted']} | {r['auc']:.3f} | {r['low']:.3f} to {r['high']:.3f} | {r['balanced']:.3f} | "
        f"{r['real']:.3f} | {r['fake']:.3f} | {r['failed']} |\n"
        for r in lines
    )


def measure(data: Path, limit: int) -> dict[str, Any]:
    """Everything of one folder; what could not be opened or run is under ``missing``."""
    began, missing = time.monotonic(), []
    rows, pictures = [], []
    for row in chosen(list(read_manifest(data / "manifest.csv")), limit):
        try:
            picture = open_image(data / row.path).rgb
        except IvdetectError as error:
            missing.append(str(error).replace(str(data), "DATA"))
            continue
        rows.append(row)
        pictures.append(picture)
    side = common_side([p.size for p in pictures])  # one size, or the size would tell the class again
    same = [equalise(p, rng_of(r.path), side_px=side) for p, r in zip(pictures, rows, strict=True)]
    in_test = [place_group(r.group, {"fit": 0.5, "test": 0.5}, 0) == "test" for r in rows]
    test = [i for i, t in enumerate(in_test) if t]
    rest = [i for i, t in enumerate(in_test) if not t]
    photographs = [(rows[i].path, pictures[i]) for i in rest if rows[i].label == "real"]
    sets = {
        "forged twins": twins(photographs, side),
        "half of this set": ([same[i] for i in rest], [int(rows[i].label != "real") for i in rest]),
    }
    test_rows, test_pictures = [rows[i] for i in test], [same[i] for i in test]
    lines: list[dict[str, Any]] = []
    for make in [Nano, *BASELINES.values()]:
        for fitted in sets if make().fits else ("",):
            system: Baseline = make()  # type: ignore[assignment]
            try:
                if fitted:
                    system.fit(*sets[fitted])
                lines.append(figures(system.name, fitted, scored(system, test_pictures), test_rows))
                print(lines[-1], flush=True)
            except (IvdetectError, ImportError) as error:
                missing.append(f"{system.name}: {error}")
    return {
        "what": "AUC with 95 % bootstrap interval by group, accuracies at 0.5, on equalised pictures",
        "command": f"python benchmarks/main_results.py DATA --limit {limit} --out results",
        "equalised": RULE,
        "side_px": side,
        "pictures": {"test": len(test), "fit": len(rest), "twins": len(sets["forged twins"][0])},
        "seconds": round(time.monotonic() - began, 1),
        "missing": missing,
        "lines": lines,
    }


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, default=60, help="pictures of each label and kind")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    result = measure(args.data, args.limit)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "main.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "main.md").write_text(table(result["lines"]))


if __name__ == "__main__":
    main()
