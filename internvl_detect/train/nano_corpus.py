"""The training corpus of the nano model: photographs, and forged twins of the same pixels, finished alike.

Every row of a photograph has a forged row beside it: the same cut of the same photograph, rebuilt as a whole by one
of several decoders, or edited in a part; both then get one and the same draw of resizing, blur, noise and JPEG, so
that neither size nor format nor quality tells the label. Photographs go to train, val or test as a whole, by the hash
of their name; a folder given as ``unseen`` and a decoder given as ``left_out`` appear in tests only.
Not a general forging tool, and it never sees a model that detects.

    python -m internvl_detect.train.nano_corpus --photographs DIR --photographs DIR2 --unseen DIR3 --out corpus
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl_detect.data.forge.finish import Finish
from internvl_detect.data.forge.plain import describe, make_edited, resample
from internvl_detect.errors import DataError
from internvl_detect.questions import IMAGE_QUESTION
from internvl_detect.train.autoencoders import Autoencoder, load_own, new_autoencoder, save_autoencoder
from internvl_detect.train.rebuild import (
    load_autoencoder,
    rebuild,
    train_autoencoder,
)

SIZES_PX = (224, 224, 224, 224, 288, 336, 448)  # sides of the pictures made; 224 px is one tile of nano
OWN = ("nearest4", "transpose8", "bilinear8", "transpose4", "shuffle8")
LEFT_OUT = "shuffle8"
KINDS = (("whole", 0.55), ("rebuild", 0.2), ("splice", 0.15), ("copy_move", 0.1))
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Photograph:
    """A source file, the folder it came from, and the split that its name decides."""

    path: Path
    source: str
    split: str

    @property
    def group_id(self) -> str:
        """One photograph never crosses splits."""
        return f"{self.source}/{self.path.name}"


def split_of(name: str, *, test: int = 20, val: int = 8) -> str:
    """train, val or test from the sha256 of a file's name: ``test`` and ``val`` are percents."""
    place = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    return "test" if place < test else "val" if place < test + val else "train"


def find_photographs(folders: Sequence[Path], unseen: Sequence[Path]) -> list[Photograph]:
    """All pictures of the folders, sorted; those of ``unseen`` are "unseen" as a whole. Raises DataError if none."""
    found = []
    for folder in [*folders, *unseen]:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{folder} holds no pictures", expected="JPEG, PNG or WebP photographs")
        for path in files:
            found.append(Photograph(path, folder.name, "unseen" if folder in unseen else split_of(path.name)))
    return found


def load_decoders(
    weights: Sequence[Path], own: Path, pictures: Sequence[np.ndarray], seconds: float
) -> dict[str, Autoencoder]:
    """Name -> network: the given encoder and decoder pair, and our own, trained here unless ``own`` holds them."""
    nets: dict[str, Autoencoder] = {}
    if weights:
        nets["given"] = load_autoencoder(weights[0], weights[1])
    own.mkdir(parents=True, exist_ok=True)
    for i, kind in enumerate(OWN):
        path = own / f"ae_{kind}.safetensors"
        if not path.exists():
            net = new_autoencoder(kind)
            psnr = train_autoencoder(net, pictures, seconds=seconds, seed=i)
            save_autoencoder(net, path, kind=kind)
            print(f"trained {path.name}: {psnr:.1f} dB on its training crops", flush=True)
        nets[kind] = load_own(path)
    return nets


def _read(photo: Photograph) -> np.ndarray:
    with Image.open(photo.path) as picture:
        return np.asarray(picture.convert("RGB"))


def _view(rgb: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray | None:
    """A square cut of ``side`` px from the photograph made smaller by a drawn factor; None if it is too small.

    The photograph always shrinks a little where it can: that blurs the grid of its own old JPEG compression, which a
    rebuilt twin would not have.
    """
    h, w = rgb.shape[:2]
    least = side / min(h, w)
    if least > 1:
        return None
    scale = max(least, float(rng.uniform(max(least, 0.5), max(least, 0.95))))
    small = Image.fromarray(rgb).resize((max(side, round(w * scale)), max(side, round(h * scale))), Image.LANCZOS)
    x, y = int(rng.integers(small.width - side + 1)), int(rng.integers(small.height - side + 1))
    return np.asarray(small.crop((x, y, x + side, y + side)))


def make_pair(
    photo: Photograph,
    donor: Photograph,
    nets: dict[str, Autoencoder],
    rng: np.random.Generator,
    *,
    quality: tuple[int, int] = (75, 95),
    only: str | None = None,
    size_px: int | None = None,
) -> list[tuple[bytes, dict[str, Any]]]:
    """(JPEG, facts) of a cut of the photograph and of its forged twin. ``only`` fixes the decoder of a whole rebuild.

    Facts: label, method, decoder, answer, finish, and the twins' record; the finish is the same for both.
    """
    size = size_px or int(rng.choice(SIZES_PX))
    finish = Finish.draw(rng, quality=quality)
    source = _read(photo)
    side = int(np.ceil(size / min(finish.scale, 1.0))) + 1
    view = _view(source, side, rng)
    if view is None:  # too small for this size: take what there is, without resizing it afterwards
        size = min(size, *source.shape[:2])
        finish = Finish(**{**finish.to_dict(), "scale": 1.0})
        view = _view(source, size, rng)
    if view is None:
        raise DataError(f"{photo.path} cannot be cut to {size} px")
    names, weights = zip(*KINDS, strict=True)
    kind = "whole" if only else str(rng.choice(names, p=np.array(weights)))
    decoder = only or str(rng.choice([*sorted(nets), "resample"]))
    rebuilt = (lambda rgb: resample(rgb, rng)) if decoder == "resample" else (lambda rgb: rebuild(nets[decoder], rgb))
    record: dict[str, Any] = {"method": "whole"}
    if kind == "whole":
        forged, label = rebuilt(view), "ai_generated"
    else:
        other = _read(donor) if kind == "splice" else None
        forged, _, record = make_edited(view, rng, kind, donor=other, rebuild=rebuilt)
        label = "tampered"
    shared = {"group_id": photo.group_id, "source": photo.source, "pair_kind": kind, "finish": finish.to_dict()}
    shared["size_px"] = size
    if kind in ("whole", "rebuild"):
        shared["decoder"] = decoder
    answers = describe({"method": "none"}, rng), describe(record, rng)
    cut = (size, size)
    return [
        (finish.apply(view, size=cut), {**shared, "label": "real", "method": "none", "answer": answers[0]}),
        (finish.apply(forged, size=cut), {**shared, "label": label, **record, "answer": answers[1]}),
    ]


def rows(
    photos: Sequence[Photograph],
    nets: dict[str, Autoencoder],
    per_photo: int,
    seed: int,
    out: Path,
    split: str,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Writes ``per_photo`` pairs of every photograph as JPEG files under out/split and yields their JSONL rows."""
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    for i, photo in enumerate(photos):
        rng = np.random.default_rng([seed, i])
        for pair in range(per_photo):
            donor = photos[int(rng.integers(len(photos)))]
            for data, facts in make_pair(photo, donor, nets, rng, **options):
                name = f"{split}/{i:05d}_{pair:02d}_{'real' if facts['label'] == 'real' else 'fake'}.jpg"
                (out / name).write_bytes(data)
                answer = facts.pop("answer")
                said = [{"from": "human", "value": f"<image>\n{IMAGE_QUESTION}"}, {"from": "gpt", "value": answer}]
                yield {"id": name, "image": name, "width": facts["size_px"], "conversations": said, **facts}


def write(out: Path, split: str, found: Iterable[dict[str, Any]]) -> None:
    """out/split.jsonl, split_large.jsonl (pictures larger than a tile) and split_all.jsonl, listed in out/meta.json.

    Large pictures cost four tiles each, so most of them are left out of a pass over them (``repeat_time``).
    """
    rows_by_name: dict[str, list[dict[str, Any]]] = {split: [], f"{split}_large": []}
    for row in found:
        rows_by_name[f"{split}_large" if row["width"] > SIZES_PX[0] else split].append(row)
    together = [row for part in rows_by_name.values() for row in part]
    listed = out / "meta.json"
    meta = json.loads(listed.read_text()) if listed.is_file() else {}
    for name, part in {**rows_by_name, f"{split}_all": together}.items():
        path = out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
        large = name.endswith("_large")
        entry = {"root": str(out), "annotation": str(path), "data_augment": False, "length": len(part)}
        meta[name] = entry | {"max_dynamic_patch": 4, "repeat_time": 0.15 if large else 1}
    listed.write_text(json.dumps(meta, indent=1) + "\n")
    print(f"{split}: {len(together)} rows", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--photographs", type=Path, action="append", required=True, help="folder; can be repeated")
    parser.add_argument("--unseen", type=Path, action="append", default=[], help="folder used in tests only")
    parser.add_argument("--weights", type=Path, nargs=2, default=(), metavar=("ENCODER", "DECODER"))
    parser.add_argument("--own", type=Path, help="folder of our own autoencoders (default: OUT/decoders)")
    parser.add_argument("--seconds", type=float, default=100, help="training time of each own autoencoder")
    parser.add_argument("--per-photograph", type=int, default=18, help="pairs of each training photograph")
    parser.add_argument("--splits", nargs="+", default=["val", "test", "unseen", "train", "left_out"])
    parser.add_argument("--seed", type=int, default=0, help="another seed makes another draw of the same photographs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    photos = find_photographs(args.photographs, args.unseen)
    of = {s: [p for p in photos if p.split == s] for s in ("train", "val", "test", "unseen")}
    rng = np.random.default_rng(args.seed)
    shown = [_read(of["train"][i]) for i in rng.permutation(len(of["train"]))[:300]]
    nets = load_decoders(args.weights, args.own or args.out / "decoders", shown, args.seconds)
    seen = {k: v for k, v in nets.items() if k != LEFT_OUT}
    of["unseen"] = [of["unseen"][i] for i in sorted(rng.permutation(len(of["unseen"]))[:150])]
    plan = [("val", 6, {}), ("test", 6, {}), ("unseen", 2, {"size_px": 224}), ("train", args.per_photograph, {})]
    for split, per_photo, options in plan:
        if of[split] and split in args.splits:
            write(args.out, split, rows(of[split], seen, per_photo, args.seed, args.out, split, **options))
    if "left_out" in args.splits:
        left = {LEFT_OUT: nets[LEFT_OUT]}
        write(args.out, "left_out", rows(of["test"], left, 3, args.seed + 1, args.out, "left_out", only=LEFT_OUT))


if __name__ == "__main__":
    main()
