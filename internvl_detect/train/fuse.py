"""Fits how InternVL2's score and the domain tagger's are weighed, and the calibration of what comes out.

    python -m internvl_detect.train.fuse --model nano --tagger nano --material work --generated flux=DIR \
        --real cameras=DIR --keep flux --calibrate-real kodak=DIR --target-error 0.15 --out ADAPTER_FOLDER

The adapter in ADAPTER_FOLDER is what is asked, and its ``ivdetect.json`` gets ``fusion`` and ``calibration``; the rest
of it stays. Weights come from one split of all sources but those kept, or with ``--weigh-by-kept`` from those as the
calibration does, which always comes from those that were kept
(``--keep``: of what is given, by name, and everything forged from photographs of that name; ``--calibrate-...``: more
folders, never trained on, with all of their pictures; ``--left-out TAGGER=NAME,NAME``: of what is given, by a tagger
that was trained without these names, its log odds brought to the scale of the first tagger's). Pictures that are
taken as they are get one size rule and one JPEG compression first, forged sets have one format already. Raw log odds
go to ``--work``/odds.jsonl one by one, so a killed run goes on; ``--work``/fit.json says what was fitted on.
Not here: the fit (``fuse_fit``).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from internvl_detect.data.jsonl import atomically, remembered
from internvl_detect.errors import CheckpointError, DataError, IvdetectError
from internvl_detect.evaluate.equalise import equalise, rng_of
from internvl_detect.media.image import open_image
from internvl_detect.media.tiles import cut_tiles
from internvl_detect.model.answer import Answerer, Request
from internvl_detect.model.checkpoint import LoadedModel, load_base
from internvl_detect.model.domain_tag import DomainTagger
from internvl_detect.model.prompts import encode_question
from internvl_detect.model.settings import AdapterSettings
from internvl_detect.questions import IMAGE_QUESTION
from internvl_detect.train.fuse_fit import CAUTION, Odds, fit_calibration, fit_fusion, told
from internvl_detect.train.material import all_rows, as_they_are, forged_rows, named
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger_run import drawn


class Parts:
    """Model and tagger, asked about one picture; ``key`` tells their weights from others'."""

    def __init__(self, loaded: LoadedModel, tagger: DomainTagger, adapter: Path | None) -> None:
        self.answerer, self.tagger = Answerer(loaded), tagger
        digest = hashlib.sha256(f"{loaded.fingerprint} {tagger.fingerprint} {tagger.settings()}".encode())
        for file in sorted(adapter.glob("*.safetensors")) if adapter else ():
            digest.update(file.read_bytes())
        digest.update(json.dumps(loaded.settings.tiles.to_dict()).encode())
        self.key = digest.hexdigest()[:16]

    def odds(self, picture: Image.Image) -> tuple[float, float]:
        """Raw log odds of fake of a picture: the model's and the tagger's, as detection asks for them; but it is not
        searched for copies, which change the tagger's where one is found."""
        loaded = self.answerer.loaded
        tiles = cut_tiles(picture, loaded.settings.tiles).pixels
        ids = encode_question(
            self.answerer.tokenizer,
            IMAGE_QUESTION,
            tiles_per_image=[len(tiles)],
            tokens_per_tile=loaded.tokens_per_tile,
            system=loaded.settings.system_message,
            video_last_newline=loaded.settings.video_last_newline,
        )
        state = self.answerer.prefill([Request(ids, tiles)], keep_cache=False)
        return float(state.log_odds[0]), self.tagger.look(picture).log_odds


def brought_to_scale(answers: list[dict[str, Any]], of_other: Odds, of_own: Odds) -> list[dict[str, Any]]:
    """The answers of another tagger as if they were our own: on the same pictures, regressions on either tagger alone
    then say the same. Raises DataError where one of them tells nothing."""
    own, other = (fit_fusion(dataclasses.replace(odds, model=0 * odds.model)) for odds in (of_own, of_other))
    return [{**row, "tagger": (row["tagger"] * other.tag + other.bias - own.bias) / own.tag} for row in answers]


def left_out(value: str) -> tuple[Path, list[str]]:
    """The folder of a tagger and the names it was trained without, of "FOLDER=NAME,NAME"."""
    folder, _, names = value.partition("=")
    if not folder or not names.strip(", "):
        raise DataError(f"--left-out {value!r}", expected="FOLDER=NAME,NAME")
    return Path(folder), [name for name in names.split(",") if name]


def is_fake(row: TagRow) -> int:
    """1 for what is not authentic."""
    return int(row.tag != "authentic")


def divided(rows: Iterable[TagRow], split: str, keep: Sequence[str]) -> tuple[list[TagRow], list[TagRow]]:
    """(rows to weigh by, rows kept for the calibration) of one split: kept is what has, or was forged from photographs
    that have, one of the names. Raises DataError for a name that there is none of."""
    weigh, kept, names = [], [], set()
    for row in rows:
        if row.split == split:
            own = {row.source, row.group.partition("/")[0]} & set(keep)
            names |= own
            (kept if own else weigh).append(row)
    if unknown := sorted(set(keep) - names):
        raise DataError(f"no pictures of {unknown[0]!r} to keep in the split {split!r}", expected="a source's name")
    return weigh, kept


def asked(parts: Parts, rows: Sequence[TagRow], cache: Path, as_it_is: Container[str] = ()) -> list[dict[str, Any]]:
    """One object a row that could be read, with its raw log odds, from ``cache`` where that has it, else asked and
    added to it. Pictures are equalised first, but for the paths in ``as_it_is``."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    known = remembered(cache, parts.key)
    found = []
    with cache.open("a", encoding="utf-8") as file:
        print(file=file)  # ends a line that was cut off
        for at, row in enumerate(rows):
            alike = row.path not in as_it_is
            name = f"{'equalised' if alike else 'as it is'} {row.path}"
            if name not in known:
                try:
                    picture = open_image(row.path).rgb
                    model, tag = parts.odds(equalise(picture, rng_of(row.group)) if alike else picture)
                except IvdetectError as error:
                    print(f"left out: {error}", flush=True)
                    continue
                known[name] = {"picture": name, "key": parts.key, "model": model, "tagger": tag}
                print(json.dumps(known[name]), file=file, flush=True)
            if at % 100 == 99:
                print(f"{at + 1} of {len(rows)} pictures", flush=True)
            found.append({**known[name], "fake": is_fake(row), "source": row.source})
    return found


def fit_and_store(
    weigh: list[dict[str, Any]],
    kept: list[dict[str, Any]],
    folder: Path,
    *,
    split: str,
    target_error: float,
    caution: float = CAUTION,
    by_kept: bool = False,
) -> dict[str, Any]:
    """Fits both on answers of ``asked`` and writes them into the folder's ``ivdetect.json``; what was found.
    ``by_kept``: the weights, too, on what was kept.

    Raises DataError where a class is missing, or where neither part tells.
    """
    sources = ", ".join(sorted({row["source"] for row in kept}))
    fusion = fit_fusion(Odds.of(kept if by_kept else weigh))
    apart = "were kept for it and for the weights" if by_kept else "the weights were not fitted on"
    about = f"{len(kept)} pictures of sources that {apart}: {sources}"
    calibration = fit_calibration(Odds.of(kept), fusion, target_error, caution=caution, fitted_on=about)
    settings = AdapterSettings.read(folder)
    dataclasses.replace(settings, fusion=fusion.to_dict(), calibration=calibration.to_dict()).write(folder)
    return {
        "fusion": fusion.to_dict(),
        "calibration": calibration.to_dict(),
        "split": split,
        "caution": caution,
        "weighed": told(Odds.of(weigh), fusion, calibration),
        "kept": told(Odds.of(kept), fusion, calibration),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tagger", default="nano")
    parser.add_argument("--material", type=Path, required=True, help="folder of forged sets")
    for name in ("--generated", "--real", "--calibrate-generated", "--calibrate-real"):
        parser.add_argument(name, action="append", nargs="+", default=[], metavar="NAME=DIR")
    parser.add_argument("--keep", action="append", nargs="+", default=[], metavar="NAME", help="for the calibration")
    parser.add_argument("--left-out", action="append", default=[], metavar="TAGGER=NAME,NAME")
    parser.add_argument("--weigh-by-kept", action="store_true", help="where neither part was trained on what is kept")
    parser.add_argument("--split", default="val")
    parser.add_argument("--most", type=int, default=1200, help="pictures to weigh by, and as many to calibrate on")
    parser.add_argument("--target-error", type=float, default=0.15)
    parser.add_argument("--caution", type=float, default=CAUTION, help="share of draws of sources that must hold")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("fuse"), help="folder of odds.jsonl and fit.json")
    parser.add_argument("--out", type=Path, required=True, help="adapter folder with ivdetect.json")
    args = parser.parse_args(argv)
    given = {k: named([v for part in getattr(args, k) for v in part]) for k in ("generated", "real")}
    more = {k: named([v for part in getattr(args, f"calibrate_{k}") for v in part]) for k in ("generated", "real")}
    if twice := sorted((more["generated"] | more["real"]).keys() & (given["generated"] | given["real"]).keys()):
        raise DataError(f"{twice[0]!r} both to weigh by and to calibrate on", expected="sources of one of the two")
    rows = all_rows(args.material, given["generated"], given["real"])
    forged = {row.path for row in forged_rows(args.material)}
    weigh, kept = divided(rows, args.split, [name for part in args.keep for name in part])
    kept += as_they_are(more["generated"], "ai_generated") + as_they_are(more["real"], "authentic")
    if not (args.out / "ivdetect.json").is_file():
        raise CheckpointError(f"{args.out} has no ivdetect.json", expected="an adapter's folder")
    loaded = load_base(args.model, adapter=args.out, device=args.device)
    parts = Parts(loaded, DomainTagger.load(args.tagger, args.device), args.out)
    cache = args.work / "odds.jsonl"
    answers = [asked(parts, drawn(part, args.most), cache, forged) for part in (weigh, kept)]
    for folder, names in map(left_out, args.left_out):
        unseen = divided(rows, args.split, names)[1]
        away = set(unseen)
        familiar = drawn([row for row in weigh if row not in away], args.most // 2)
        other = Parts(loaded, DomainTagger.load(folder, args.device), args.out)
        sides = [Odds.of(asked(one, familiar, cache, forged)) for one in (other, parts)]
        answers[1] += brought_to_scale(asked(other, unseen, cache, forged), *sides)
    how = {"target_error": args.target_error, "caution": args.caution, "by_kept": args.weigh_by_kept}
    result = fit_and_store(*answers, args.out, split=args.split, **how)
    with atomically(args.work / "fit.json") as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps({k: result[k] for k in ("fusion", "calibration")}, indent=1))


if __name__ == "__main__":
    main()
