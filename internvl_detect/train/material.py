"""What the embedded weights are trained on, stage by stage: decoders, forged sets of photographs, pictures as they are.

    python -m internvl_detect.train.material decoders --photographs DIR --out work
    python -m internvl_detect.train.material forge --photographs DIR --faces DIR --out work --workers 16
    rows = all_rows("work", generated={"flux": DIR}, real={"cameras": DIR})

``work/decoders`` holds the networks, ``work/edits`` forgeries without one, ``work/by_KIND`` what each network forged of
its share of the photographs. Every stage goes on where it was stopped. A photograph is in one split in all sets, since
splits follow from names. Not here: training detectors on it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from internvl_detect.data.forge import forge_folder
from internvl_detect.data.forge.item import view
from internvl_detect.data.forge.journal import MANIFEST
from internvl_detect.data.forge.plan import SHARES, find_sources
from internvl_detect.data.jsonl import atomically
from internvl_detect.data.manifest import ManifestRow, read_manifest, split_by_group
from internvl_detect.errors import DataError, IvdetectError
from internvl_detect.media.source import PICTURE_SUFFIXES
from internvl_detect.train.autoencoders import new_autoencoder, new_critic, save_autoencoder
from internvl_detect.train.rebuild import Rebuilder, train_autoencoder
from internvl_detect.train.tag_data import TagRow, tag_rows

KINDS = (
    *("nearest8ka", "bilinear8k", "transpose8", "wide8g", "style8g", "nearest4v", "shuffle4"),
    *("nearest16k", "transpose4g", "wide16va", "style4", "bilinear16", "shuffle8k", "nearest8vg"),
)
GIVEN = "given"  # the encoder and decoder that the user gives
EDITS = ("splice", "copy_move", "removal", "poisson")
BY_DECODER = ("rebuild_whole", "rebuild", "decoder_removal")
SEED = 0


def train_decoders(
    photographs: Sequence[Path],
    out: Path,
    *,
    seconds: float,
    device: str,
    most: int = 800,
    kinds: Sequence[str] | None = None,
) -> None:
    """One network of each of ``kinds``, KINDS unless given, in ``out``/decoders; those that are there are passed over.

    Raises DataError where no photograph can be used.
    """
    folder = out / "decoders"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = tuple(kinds or KINDS)
    left = [kind for kind in wanted if not (folder / f"{kind}.safetensors").exists()]
    if not left:
        return
    sources = find_sources(photographs)
    sources = sorted(sources, key=lambda s: hashlib.sha256(s.name.encode()).digest())[:most]
    pictures = []
    for source in sources:
        try:
            pictures.append(view(source.path, 448))
        except IvdetectError:
            continue
    size = {"crop_px": 96, "batch": 48} if device != "cpu" else {"crop_px": 64, "batch": 12}
    if not any(min(picture.shape[:2]) >= size["crop_px"] for picture in pictures):
        raise DataError(f"{len(sources)} photographs", expected=f"some of {size['crop_px']} px and more that open")
    for kind in left:
        net = new_autoencoder(kind)
        critic = new_critic() if "g" in kind else None
        psnr = train_autoencoder(
            net, pictures, seconds=seconds, seed=wanted.index(kind), device=device, critic=critic, **size
        )
        save_autoencoder(net, folder / f"{kind}.safetensors", kind=kind)
        print(f"decoder {kind}: {psnr:.1f} dB on its training crops", flush=True)


def forge_edits(
    photographs: Sequence[Path], faces: Sequence[Path], out: Path, *, workers: int, per_photo: int = 3, size: int = 448
) -> None:
    """``out``/edits: forgeries that need no network."""
    methods = (*EDITS, "face_swap") if faces else EDITS
    made = forge_folder(
        photographs,
        out / "edits",
        per_photo=per_photo,
        methods=methods,
        seed=SEED,
        faces=faces,
        size=size,
        workers=workers,
    )
    print(f"edits: {made.made} made, {made.passed_over} were there, {len(made.problems)} problems", flush=True)


def forge_by(
    kind: str,
    rebuilder: Rebuilder,
    photographs: Sequence[Path],
    out: Path,
    *,
    workers: int,
    share: float,
    size: int = 448,
) -> None:
    """``out``/by_KIND: what one network makes of the ``share`` of the photographs that its name draws."""
    part = out / "parts" / kind
    folders = [_linked(folder, part / folder.name, kind, share) for folder in photographs]
    if not any(filled := [f for f in folders if any(f.iterdir())]):
        print(f"{kind}: none of the photographs were drawn", flush=True)
        return
    made = forge_folder(
        filled,
        out / f"by_{kind}",
        per_photo=2,
        methods=BY_DECODER,
        seed=SEED,
        rebuild=rebuilder,
        size=size,
        workers=workers,
    )
    print(f"{kind}: {made.made} made, {made.passed_over} were there, {len(made.problems)} problems", flush=True)


def _linked(folder: Path, to: Path, kind: str, share: float) -> Path:
    """Hard links to (or copies of) the drawn share of a folder's pictures, under the folder's own name."""
    to.mkdir(parents=True, exist_ok=True)
    for file in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES):
        drawn = int(hashlib.sha256(f"{kind}/{file.name}".encode("utf-8", "surrogateescape")).hexdigest(), 16) % 10_000
        target = to / file.relative_to(folder)
        if drawn < share * 10_000 and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:
                with atomically(target) as copy:
                    copy.write(file.read_bytes())
    return to


def as_they_are(folders: Mapping[str, Path], tag: str) -> list[TagRow]:
    """Rows of whole folders of one tag; ``source`` is the name they are given by.

    A picture's split follows from its folder's name and its own as it does in forging, so a photograph that was also
    forged is in the same split. Raises DataError for a folder without pictures.
    """
    rows = []
    for source, folder in sorted(folders.items()):
        files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise DataError(f"no pictures in {folder}", expected=f"pictures of the source {source}")
        names = {f"{Path(folder).name}/{file.relative_to(folder).as_posix()}": file for file in files}
        listed = (ManifestRow(path=name, label="real", group_id=name) for name in names)
        for row in split_by_group(listed, dict(SHARES), SEED):
            rows.append(TagRow(str(names[row.path]), tag, "", row.path, row.split, source))
    return rows


def forged_rows(out: Path) -> Iterator[TagRow]:
    """Rows of all forged sets under ``out``; ``source`` is the set's name."""
    for manifest in sorted(out.glob(f"*/{MANIFEST}")):
        for row in tag_rows(read_manifest(manifest), manifest.parent):
            yield replace(row, source=manifest.parent.name)


def all_rows(out: Path | None, generated: Mapping[str, Path], real: Mapping[str, Path]) -> list[TagRow]:
    """Everything there is to train and test on; ``out`` holds forged sets, if there are any.

    Raises DataError when there is nothing.
    """
    forged = forged_rows(out) if out else ()
    rows = [*forged, *as_they_are(generated, "ai_generated"), *as_they_are(real, "authentic")]
    if not rows:
        raise DataError(f"no forged sets in {out} and no pictures", do="forge first")
    return rows


def named(values: Sequence[str]) -> dict[str, Path]:
    """{"flux": Path} of texts like "flux=DIR", or a folder whose name is the source's."""
    found = {}
    for value in values:
        name, equals, path = value.partition("=")
        folder = Path(path if equals else value)
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder", expected="NAME=FOLDER")
        if not (name := name if equals else folder.name) or name in found:
            raise DataError(f"{value}: the name {name!r} is empty or given twice", expected="NAME=FOLDER")
        found[name] = folder
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stage", choices=("decoders", "forge", "edits", "by_decoder"))
    parser.add_argument("--photographs", type=Path, action="append", required=True, help="folder; can be repeated")
    parser.add_argument("--faces", type=Path, action="append", default=[], help="folder of aligned faces")
    parser.add_argument("--given", type=Path, nargs=2, metavar=("ENCODER", "DECODER"), help="one decoder more")
    parser.add_argument("--seconds", type=float, default=120, help="training time of each decoder")
    parser.add_argument("--share", type=float, default=0.15, help="share of the photographs that a decoder forges")
    parser.add_argument("--size", type=int, default=448, help="longer side of what is forged, in px")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    began = time.monotonic()
    both = [*args.photographs, *args.faces]
    if args.stage == "decoders":
        train_decoders(both, args.out, seconds=args.seconds, device=args.device)
    if args.stage in ("forge", "edits"):
        forge_edits(args.photographs, args.faces, args.out, workers=args.workers, size=args.size)
    if args.stage in ("forge", "by_decoder"):
        nets = {k: Rebuilder(str(args.out / "decoders" / f"{k}.safetensors")) for k in KINDS}
        nets |= {GIVEN: Rebuilder(*map(str, args.given))} if args.given else {}
        for kind, rebuilder in nets.items():
            forge_by(kind, rebuilder, both, args.out, workers=args.workers, share=args.share, size=args.size)
    print(json.dumps({"stage": args.stage, "seconds": round(time.monotonic() - began, 1)}), file=sys.stderr)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
