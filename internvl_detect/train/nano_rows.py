"""Conversations for the embedded InternVL2: verdict, words after the tagger's first guess, and the turn of the mask.

Every picture of the forged sets, and of the folders taken as they are, becomes one row whose questions are those that
detection asks. The guess in front of the second question is in most of the training rows of forgeries what was really
done, or words would not learn to follow it; in the others it is the trained tagger's own. Rows without a picture drill
the same turn. Guesses go to OUT/guesses.jsonl one by one, so a killed run goes on. Not here: the sets (``material``),
the tagger (``tagger``), the training.

    python -m internvl_detect.train.nano_rows --material work --tagger work/tagger/tagger --out work/nano
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.data.conversations.meta import make_row
from internvl_detect.data.conversations.rows import IMAGE
from internvl_detect.data.forge.methods import METHODS as FORGING
from internvl_detect.data.forge.regions import SIZES
from internvl_detect.data.forge.words import PLACES, phrasings, place_seen
from internvl_detect.data.jsonl import atomically, remembered
from internvl_detect.errors import IvdetectError
from internvl_detect.media.image import open_image
from internvl_detect.model.domain_tag import TAGS, DomainTagger, Tagged
from internvl_detect.model.tagger_net import METHODS
from internvl_detect.questions import IMAGE_QUESTION, SEG, SEGMENT_QUESTION, explain_question, tagged
from internvl_detect.train.material import as_they_are, named
from internvl_detect.train.tag_data import TagRow

REPLACED = 0.08  # share of guesses that are drawn evenly from all tags
TOLD = 0.9  # share of the training rows of forgeries whose guess is what was done
DRILLED = 4  # drills for each training row of a forgery
MISTOLD = 0.03  # share of the drills whose guess names another place; as many another method
AUTHENTIC = 0.35  # share of the drills whose verdict is no, whatever the guess
DRILLS = "train_drills"
ONE_TILE_PX = 224
GUESSES, SEEN = "guesses.jsonl", ("picture", "key", "tag", "forgery", "place", "method", "width", "height")
Guess = tuple[str, str, str]  # tag, place, method
GENERATED_WORDS = "The picture was generated. The whole picture came out of a decoder."


def guess(seen: Tagged) -> tuple[str, str, str, str]:
    """The likeliest tag, the likeliest one but authentic, the place of the map's suspicious cells, "" where there are
    too few, and the method."""
    return seen.tag, seen.forgery, place_seen(seen.map), seen.method


def row_of(path: str, yes: bool, words: str, first: Guess, mask: str, label: str, group: str, source: str) -> Any:
    """One annotation row: three questions of a picture with their answers, the third where the mask is known."""
    verdict = "Yes." if yes else "No."
    turns = [f"{IMAGE}\n{IMAGE_QUESTION}", verdict]
    turns += [_asked(first), f"{verdict} {words}"]
    more: dict[str, Any] = {"label": label, "group_id": group, "source": source}
    if mask or not yes:
        turns += [SEGMENT_QUESTION, SEG]
    if mask:
        more["mask"] = mask
    return make_row(*turns, image=path, id=path, **more)


def _asked(first: Guess) -> str:
    return tagged(first[0], explain_question(), *first[1:])


def drills(n: int, seed: int = 0) -> Iterator[Any]:
    """``n`` rows without a picture: a verdict, a guess, and the words that follow both.

    The guess names another place or method than the words in a part of them, so that pictures keep their say.
    """
    rng = np.random.default_rng(seed)
    for at in range(n):
        method, place = str(rng.choice(METHODS)), str(rng.choice(PLACES))
        row = {"id": f"drill {at}", "group_id": f"drill {at}", "source": DRILLS}
        if rng.random() < AUTHENTIC:
            words = next(phrasings({"method": "none"}))
            first = str(rng.choice(TAGS)), place, method
            yield make_row(IMAGE_QUESTION, "No.", _asked(first), f"No. {words}", label="real", **row)
            continue
        about = FORGING[method]
        record = {"method": method, "label": about.label, "place": place, "size": str(rng.choice([*SIZES]))}
        words = next(phrasings({**record, "source_place": str(rng.choice(("left", "middle", "right")))}))
        told = str(rng.choice(PLACES)) if rng.random() < MISTOLD else place
        as_method = str(rng.choice(METHODS)) if rng.random() < MISTOLD else method
        first = about.domain_tag, told, as_method
        turns = IMAGE_QUESTION, "Yes.", _asked(first), f"Yes. {words}"
        yield make_row(*turns, label=about.label, **row)


def forged(material: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(split, source, what a row needs beside the guess) of every picture of the forged sets: forgeries and twins."""
    for records in sorted(material.glob("*/records.jsonl")):
        folder = records.parent
        for line in records.read_text("utf-8").splitlines():
            record = json.loads(line)
            words = next(phrasings(record))
            mask = str(folder / record["mask"]) if record["mask"] else ""
            base = {"group": record["name"], "source": folder.name}
            fake = {"path": str(folder / record["path"]), "yes": True, "words": words, "mask": mask}
            if record["method"] in METHODS:
                fake["done"] = FORGING[record["method"]].domain_tag, record["place"], record["method"]
            yield record["split"], folder.name, {**fake, "label": record["label"], **base}
            twin = {"path": str(folder / record["authentic"]), "yes": False, "mask": "", "label": "real", **base}
            yield record["split"], folder.name, {**twin, "words": next(phrasings({"method": "none"}))}


def whole(rows: Iterable[TagRow]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The same of pictures that are taken as they are."""
    for row in rows:
        yes = row.tag != "authentic"
        words = GENERATED_WORDS if yes else next(phrasings({"method": "none"}))
        facts = {"path": row.path, "yes": yes, "words": words, "mask": "", "group": row.group, "source": row.source}
        yield row.split, row.source, {**facts, "label": "ai_generated" if yes else "real"}


def write_rows(
    material: Path,
    generated: Mapping[str, Path],
    real: Mapping[str, Path],
    tagger: DomainTagger,
    out: Path,
    *,
    share: float = 1.0,
    threads: int = 1,
) -> dict[str, int]:
    """out/SPLIT.jsonl and out/SPLIT_large.jsonl (more than one tile), out/train_drills.jsonl, and
    out/meta.json; the number of rows of each.

    ``share`` of the groups are taken, drawn by their names; ``threads`` decode and look.
    """
    every = [forged(material), whole(as_they_are(generated, "ai_generated")), whole(as_they_are(real, "authentic"))]
    chosen = [item for part in every for item in part if _drawn(item[2]["group"]) < share]
    parts: dict[str, list[Any]] = {}
    for (split, _, facts), seen in zip(chosen, _all_seen(chosen, tagger, out, threads), strict=True):
        if seen is not None:
            part, row = _finished(split, facts, seen)
            parts.setdefault(part, []).append(row)
    told = sum(split == "train" and "done" in facts for split, _, facts in chosen)
    parts |= {DRILLS: list(drills(DRILLED * told))} if told else {}
    meta = {}
    for name, rows in sorted(parts.items()):
        path = out / f"{name}.jsonl"
        with atomically(path) as file:
            file.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)
        meta[name] = {"root": "/", "annotation": str(path.resolve()), "data_augment": False, "length": len(rows)}
        meta[name] |= {"max_dynamic_patch": 4, "repeat_time": 1}
    with atomically(out / "meta.json") as file:
        file.write((json.dumps(meta, indent=1) + "\n").encode())
    return {name: len(rows) for name, rows in parts.items()}


def _all_seen(chosen: Sequence[Any], tagger: DomainTagger, out: Path, threads: int) -> Iterator[dict[str, Any] | None]:
    """What the tagger sees in every picture, in order; what the same tagger saw before is in OUT/guesses.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    cache = out / GUESSES
    key = hashlib.sha256(f"{tagger.fingerprint} {tagger.settings()}".encode()).hexdigest()[:16]
    known = {path: line for path, line in remembered(cache, key).items() if line.keys() >= set(SEEN)}
    with cache.open("a", encoding="utf-8") as file, ThreadPoolExecutor(threads) as pool:
        if cache.stat().st_size:
            print(file=file)  # ends a line that was cut off

        def seen(item: Any) -> dict[str, Any] | None:
            return known.get(item[2]["path"]) or _looked(item[2]["path"], tagger, key)

        for found in pool.map(seen, chosen):
            if found is not None and found["picture"] not in known:
                known[found["picture"]] = found
                print(json.dumps(found), file=file, flush=True)
            yield found


def _looked(path: str, tagger: DomainTagger, key: str) -> dict[str, Any] | None:
    """SEEN of one picture; None where it cannot be read."""
    try:
        picture = open_image(path).rgb
    except IvdetectError:
        return None
    return dict(zip(SEEN, (path, key, *guess(tagger.look(picture)), *picture.size), strict=True))


def _finished(split: str, facts: dict[str, Any], seen: dict[str, Any]) -> tuple[str, Any]:
    """(part, row) of one picture."""
    tag = seen["forgery"] if facts["yes"] else seen["tag"]  # as detection asks after either answer
    first, done = (tag, seen["place"], seen["method"]), facts.get("done")
    digest = hashlib.sha256(facts["path"].encode("utf-8", "surrogateescape")).digest()
    if split == "train" and digest[0] < REPLACED * 256:
        first = (TAGS[digest[1] % len(TAGS)], *first[1:])
    if split == "train" and done and digest[2] < TOLD * 256:
        first = done
    row = row_of(first=first, **{k: v for k, v in facts.items() if k != "done"})
    row["width"], row["height"] = seen["width"], seen["height"]
    return f"{split}_large" if max(row["width"], row["height"]) > ONE_TILE_PX else split, row


def _drawn(name: str) -> float:
    return int(hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) / 2**32


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--tagger", type=Path, required=True)
    parser.add_argument("--generated", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--real", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--share", type=float, default=1.0, help="share of the photographs and pictures to take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    tagger = DomainTagger.load(args.tagger, args.device)
    given = args.material.resolve(), named(args.generated), named(args.real), tagger, args.out
    print(write_rows(*given, share=args.share, threads=args.threads), flush=True)


if __name__ == "__main__":
    main()
