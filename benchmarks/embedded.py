"""What the embedded weights do on pictures that they were not trained on: every figure, with 95 % intervals.

    a  the domain tagger: tags, images by generator and by own decoder, maps at the files' own JPEG (75 to 95) and at 60
    b  words and masks of held-out forgeries: place and method right, mask beside the tagger's map
    c  detection by InternVL2 alone, the tagger alone, both: AUC, and the three-way decision by class and source
    d  speed with the model loaded
    e  sources that a tagger was trained without (--left-out TAGGER=SOURCE, or TAGGER=SOURCE=FOLDER of its pictures)
    f  calibration and robustness
    g  whole pictures of sources never seen at their own size and compression: the tagger

Intervals are bootstraps over photographs, and over sources where each source weighs the same. Writes OUT/embedded.json
and OUT/embedded.md, anew after each part; a part that is there of the same inputs is passed over (--again: not).

    python benchmarks/embedded.py --material DIR --generated NAME=DIR --real NAME=DIR --unseen-real NAME=DIR
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from embedded_detector import Judge, detector_part, robustness_part
from embedded_sets import WHOLE, Item, counted, gather, table
from embedded_tagger import left_out_part, own_size_part, tagger_part
from embedded_words import speed_part, words_part

from internvl_detect.data.jsonl import atomically
from internvl_detect.detect import Detector
from internvl_detect.errors import ConfigError
from internvl_detect.evaluate.equalise import RULE
from internvl_detect.model.domain_tag import WEIGHTS
from internvl_detect.model.embedded import resolve
from internvl_detect.train.material import named

PARTS = "abcdefg"
FOLDERS = ("generated", "real", "unseen_generated", "unseen_real", "unseen_drawn", "unseen_tampered")
TITLES = {
    "a": "The domain tagger",
    "b": "Words and masks of held-out forgeries",
    "c": "Detection",
    "d": "Speed",
    "e": "Sources left out of a tagger's training",
    "f": "Calibration and robustness",
    "g": "Sources never seen, as their files are",
}
NOT_IN_TABLES = ("inputs", "seconds", "examples")


def markdown(result: Mapping[str, Any]) -> str:
    """The report's tables."""
    facts = result["facts"]
    text = "# The embedded weights, measured\n\n"
    text += f"`{result['command']}`\n\n"
    text += "In brackets: 95 % interval by bootstrap over photographs, over sources where each weighs the same; "
    text += "none for fewer than five photographs of a class. "
    text += f"Equalised pictures: {RULE}. Model {facts['model']}, tagger {facts['tagger']}"
    text += f" ({facts['tagger_weights']}).\n"
    for what, some_of in (("of the test split", False), ("of sources never trained on", True)):
        own = {name: n for name, n in result["pictures"].items() if name.endswith("(never seen)") == some_of}
        text += f"\n{sum(own.values())} pictures {what} in {len(own)} sets of one source and class.\n"
    for part in PARTS:
        if (own := result["parts"].get(part)) is None:
            continue
        text += f"\n## {TITLES[part]}\n"
        plain = {k: v for k, v in own.items() if not isinstance(v, list | dict) and k not in NOT_IN_TABLES}
        text += "".join(f"\n{name.replace('_', ' ').capitalize()}: {value}\n" for name, value in plain.items())
        for name, lines in own.items():
            if isinstance(lines, list) and lines and name not in NOT_IN_TABLES:
                text += f"\n### {name.replace('_', ' ').capitalize()}\n\n{table(lines)}"
    return text


def write(result: Mapping[str, Any], out: Path) -> None:
    """Both files, whole or not at all."""
    for name, text in (("embedded.json", json.dumps(result, indent=1) + "\n"), ("embedded.md", markdown(result))):
        with atomically(out / name) as file:
            file.write(text.encode())


class Bench:
    """What the parts need; the detector is loaded once."""

    def __init__(self, args: argparse.Namespace, folders: Mapping[str, Mapping[str, Path]]) -> None:
        self.args = args
        self.items: list[Item] = gather(args.material, folders, args.most)
        self.detector = Detector.from_pretrained(
            args.model, args.adapter, tagger=args.tagger, device=args.device, provenance=False
        )
        if self.detector.looker is None:
            raise ConfigError("no domain tagger", do="name one: --tagger FOLDER")
        adapter = resolve(args.model, args.adapter)[1]
        self.judge = Judge(self.detector, adapter, args.work / "judged.jsonl")
        self.left_out: dict[Path, dict[str, Path | None]] = {}
        for text in args.left_out:
            folder, *rest = text.split("=")
            if len(rest) not in (1, 2) or not rest[0] or not (Path(folder) / WEIGHTS).is_file():
                raise ConfigError(f"--left-out {text}", expected="TAGGER=SOURCE or TAGGER=SOURCE=FOLDER")
            self.left_out.setdefault(Path(folder), {})[rest[0]] = Path(rest[1]) if rest[1:] else None

    def parts(self) -> dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]]:
        """By letter: what measures it, and the options that it depends on beside weights and pictures."""
        args, detector, items = self.args, self.detector, self.items
        tagger = detector.looker.tagger
        left_out = {
            hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(): {k: str(v) for k, v in sources.items()}
            for folder, sources in self.left_out.items()
        }
        found: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]] = {
            "a": (lambda: tagger_part(tagger, items), {}),
            "b": (lambda: words_part(detector, items, args.words), {"words": args.words}),
            "c": (lambda: detector_part(self.judge, items), {}),
            "d": (lambda: speed_part(detector, args.repeats), {"threads": torch.get_num_threads(), "n": args.repeats}),
            "e": (lambda: left_out_part(tagger, self.left_out, items, args.most), left_out),
            "f": (lambda: robustness_part(self.judge, items, args.curves), {"curves": args.curves}),
            "g": (lambda: own_size_part(tagger, items, max(1, args.most // 8)), {}),
        }
        if not self.left_out:
            del found["e"]
        if not any(item.pool == WHOLE and not item.seen for item in items):
            del found["g"]
        return found

    def inputs(self, options: Mapping[str, Any]) -> str:
        """A digest of what a part's figures follow from: weights, pictures, options."""
        paths = sorted(f"{item.row.path} {item.row.source}" for item in self.items)
        whole = json.dumps([self.judge.key, paths, options], sort_keys=True)
        return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, measure part by part, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=Path, required=True, help="folder of forged sets")
    for name in FOLDERS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, action="append", nargs="+", default=[], metavar="NAME=DIR")
    parser.add_argument("--left-out", action="append", default=[], metavar="TAGGER=SOURCE[=FOLDER]")
    parser.add_argument("--most", type=int, default=40, help="pictures of each source, class and method")
    parser.add_argument("--words", type=int, default=200, help="forgeries in part b")
    parser.add_argument("--curves", type=int, default=60, help="pictures of each class for robustness")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs in part d")
    parser.add_argument("--only", default="", metavar="a,b,c")
    parser.add_argument("--again", action="store_true", help="measure parts anew")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--adapter")
    parser.add_argument("--tagger", default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="folder of what was judged so far")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args(argv)
    only = [part for part in args.only.split(",") if part] or list(PARTS)
    if not set(only) <= set(PARTS):
        parser.error(f"--only {args.only}: parts are {', '.join(PARTS)}")
    folders = {name: named([v for part in getattr(args, name) for v in part]) for name in FOLDERS}
    bench = Bench(args, folders)
    file = args.out / "embedded.json"
    before = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    tagger = bench.detector.looker.tagger
    command = "python benchmarks/embedded.py --material DIR"
    command += "".join(f" --{n.replace('_', '-')} NAME=DIR..." for n in FOLDERS if folders[n])
    result: dict[str, Any] = {
        "what": "the embedded weights on pictures they were not trained on; 95 % intervals",
        "command": f"{command} --most {args.most} --words {args.words} --curves {args.curves}",
        "facts": {
            "model": bench.detector.loaded.name,
            "tagger": tagger.name,
            "tagger_weights": tagger.fingerprint,
            "weights": bench.judge.key,
            "fusion": bench.detector.loaded.settings.fusion,
            "calibration": bench.detector.calibration.to_dict(),
            "equalised": RULE,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "pictures": counted(bench.items),
        "parts": dict(before.get("parts", {})),
    }
    print(f"{len(bench.items)} pictures", flush=True)
    for part, (measure, options) in bench.parts().items():
        inputs = bench.inputs(options)
        if part not in only:
            continue
        if result["parts"].get(part, {}).get("inputs") == inputs and not args.again:
            print(f"part {part} is there", flush=True)
            continue
        print(f"part {part}: {TITLES[part]}", flush=True)
        began = time.monotonic()
        found = measure()
        result["parts"][part] = {"inputs": inputs, "seconds": round(time.monotonic() - began, 1), **found}
        write(result, args.out)
        print(f"part {part}: {time.monotonic() - began:.0f} s", flush=True)
    write(result, args.out)


if __name__ == "__main__":
    main()
