"""From manifests to a tagger's folder: train, fit on validation, measure on test; what ``ivdetect train-tag`` does.

    out/tagger/    tagger.safetensors, tagger.json: what ``DomainTagger.load`` opens
    out/run.json   rows by tag and source, the recipe, metrics of validation and test, seconds
    out/checkpoint.safetensors, out/log.jsonl

The test split and the sources that are left out are never trained on; the calibration is fitted on validation alone.
Not here: the loop (``tagger``), crops (``tag_data``), the fit (``tagger_fit``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.data.findings import did_you_mean, printable, show
from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.files import alone_in
from internvl_detect.model.domain_tag import DomainTagger, save
from internvl_detect.model.save import whole_folder
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.train.processes import joined
from internvl_detect.train.tag_data import TAGS, TagRow
from internvl_detect.train.tagger import TagTraining, train_tagger
from internvl_detect.train.tagger_fit import Looked, fit, look_at, summary
from internvl_detect.train.tagger_heads import seen_whole, train_heads


def recipe_of(values: Mapping[str, Any]) -> TagTraining:
    """TagTraining of plain values, as YAML gives them. Raises ConfigError for a key or value that does not fit."""
    known = {f.name: f for f in dataclasses.fields(TagTraining)}
    given = dict(values)
    if unknown := [key for key in given if key not in known]:
        raise ConfigError(f"the tagger's recipe has {show(unknown[0])}", do=did_you_mean(str(unknown[0]), known))
    try:
        if "shape" in given:
            shape = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(given["shape"]).items()}
            given["shape"] = Shape(**shape)
        for key in ("sizes_px", "shares", "fresh", "faces"):
            if key in given:
                given[key] = tuple(given[key])
        if "decoders" in given:
            given["decoders"] = tuple((one,) if isinstance(one, str) else tuple(one) for one in given["decoders"])
        how = TagTraining(**given)
        if problem := _problem(how):
            raise ValueError(problem)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the tagger's recipe cannot be used ({error})", do="see recipes/tagger.yaml") from None
    return how


def _problem(how: TagTraining) -> str:
    """What is wrong with the numbers of a recipe; "" where nothing is."""

    def whole(value: Any, least: int) -> bool:
        return type(value) is int and least <= value < 2**31

    def number(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    if not all(whole(n, 1) for n in (how.batch, how.repeats, how.save_every)):
        return "batch, repeats and save_every are whole numbers from 1"
    if not how.sizes_px or not all(whole(n, 32) and n % 32 == 0 for n in how.sizes_px):
        return "sizes_px are multiples of 32"
    if not all(whole(n, 0) for n in (how.steps, how.seed, how.whole, how.workers)) or how.workers > 256:
        return "steps, seed, whole and workers are whole numbers from 0, workers up to 256"
    if not number(how.average) or not 0 <= how.average < 1:
        return "average is a number from 0 to below 1"
    if len(how.shares) != len(TAGS) or not all(number(s) and s > 0 for s in how.shares):
        return "shares are five numbers above 0"
    if not number(how.lr) or not 0 < how.lr < 1:
        return "lr is a number above 0 and under 1"
    if not all(number(n) and n >= 0 for n in (how.weight_decay, how.map_weight, how.method_weight)):
        return "weight_decay, map_weight and method_weight are numbers from 0"
    if len(how.fresh) != len(TAGS) or not all(number(n) and 0 <= n <= 1 for n in (how.strength, *how.fresh)):
        return "strength and the five shares of fresh are numbers from 0 to 1"
    if not all(type(name) is str for name in how.faces):
        return "faces are names of sources"
    if type(how.decoded) is not str:
        return "decoded is a folder"
    if not all(len(one) in (1, 2) and all(type(path) is str for path in one) for one in how.decoders):
        return "decoders are files, or pairs of an encoder and a decoder"
    return ""


def with_source(rows: Sequence[TagRow], manifest: Path) -> list[TagRow]:
    """The rows of a manifest with a source: their dataset, or the manifest's folder where that says nothing."""
    name = manifest.resolve().parent.name
    return [dataclasses.replace(row, source=name if row.source in ("", "forged") else row.source) for row in rows]


def drawn(rows: Sequence[TagRow], most: int, seed: int = 0) -> list[TagRow]:
    """``most`` of the rows, the same number of every source as far as it has them."""
    by_source: dict[tuple[str, str], list[TagRow]] = {}
    rng = np.random.default_rng(seed)
    for row in rows:
        by_source.setdefault((row.tag, row.source), []).append(row)
    queues = [[part[i] for i in rng.permutation(len(part))] for _, part in sorted(by_source.items())]
    found: list[TagRow] = []
    while len(found) < most and any(queues):
        for queue in queues:
            if queue and len(found) < most:
                found.append(queue.pop())
    return found


def run(
    rows: Sequence[TagRow],
    out: str | Path,
    how: TagTraining,
    *,
    left_out: Sequence[str] = (),
    device: str = "cpu",
    most: int = 1500,
    start: TaggerNet | None = None,
    echo: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train, fit and measure; returns what run.json holds, in the first of several processes: all others end with {}
    when the steps are done. ``left_out`` sources are measured on and nothing else.

    ``start`` is a tagger's network to go on from; with no ``steps`` only its heads are trained. ``most``
    pictures are looked at for validation, as many for the test and for the left out ones, these beside test pictures
    of the other class. Raises DataError where a split is missing or of one kind, ConfigError for a source to leave out
    that there is none of, and for a folder in which another run is at work or has been.
    """
    if not how.steps and start is None:
        raise ConfigError("steps 0 and no tagger to start from", do="give --start, or steps")
    sources = {row.source for row in rows}
    if unknown := [name for name in left_out if name not in sources]:
        raise ConfigError(
            f"no picture is of the source {show(unknown[0])}", do=did_you_mean(unknown[0], sorted(sources))
        )
    inside = [row for row in rows if row.source not in left_out]
    parts = {split: [row for row in inside if row.split == split] for split in ("train", "val", "test")}
    for split in ("train", "val"):
        if not parts[split]:
            raise DataError(
                f"no pictures of the split {split!r}", expected="a manifest with splits train, val and test"
            )
        if len(tags := {row.tag for row in parts[split]}) == 1 or "authentic" not in tags:
            raise DataError(
                f"the split {split!r} has only {', '.join(sorted(tags))}", expected="authentic pictures and fakes"
            )
    folder, began, log = Path(out), time.monotonic(), Path(out) / "log.jsonl"
    with joined(device) as (us, device), alone_in(folder) if us.first else nullcontext():

        def told(step: int, loss: float) -> None:
            seconds = round(time.monotonic() - began, 1)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "loss": round(loss, 4), "seconds": seconds}) + "\n")
            echo(f"step {step} of {how.steps}, loss {loss:.3f}, {seconds:.0f} s")

        def whole_told(done: int, of: int) -> None:
            echo(f"whole picture {done} of {of}")

        net = train_tagger(parts["train"], folder, how, device=device, start=start, progress=told, us=us)
        if not us.first:
            return {}
        kept = folder / "whole.jsonl"
        if how.whole:
            chosen = drawn(parts["train"], how.whole)
            echo(f"whole pictures for the heads: {len(chosen)}")
            seen_of = seen_whole(net, chosen, seed=how.seed, device=device, kept=kept, progress=whole_told)
            net = train_heads(net.cpu(), seen_of, shares=how.shares, seed=how.seed)
        trained = time.monotonic()
        problems: dict[str, None] = {}  # in order, each once: validation pictures are looked at twice
        tagger = DomainTagger(net, name=folder.name, device=device)

        def seen(part: Sequence[TagRow]) -> list[Looked]:
            def problem(path: str, why: str) -> None:
                problems[printable(f"{path}: {why}")] = None

            return list(look_at(tagger, drawn(part, most), problems=problem))

        looked = seen(parts["val"])
        if len({one.row.tag == "authentic" for one in looked}) < 2:
            raise DataError(
                f"of the split 'val' nothing or one class could be looked at. {' '.join([*problems][:1])}",
                expected="authentic pictures and fakes",
            )
        fit(tagger, looked)
        with whole_folder(folder / "tagger", replace=True) as made:
            save(net, tagger.settings(), made)
        splits = {"val": parts["val"], "test": parts["test"]}
        away = [row for row in rows if row.source in left_out]
        only_real = all(row.tag == "authentic" for row in away)
        beside = [row for row in parts["test"] if (row.tag == "authentic") != only_real]
        splits["left_out"] = [*away, *beside] if away else []
        measured = {}
        for name, part in splits.items():
            if part and (looked := seen(part)):
                measured[name] = {"all": summary(looked, tagger.map_threshold), "by_source": by_source(looked, tagger)}
        counts = Counter(f"{row.split}/{row.tag}/{row.source}" for row in rows)
        result = {
            "recipe": json.loads(json.dumps({**dataclasses.asdict(how), "shape": net.shape.to_dict()})),
            "left_out": sorted(left_out),
            "rows": dict(sorted(counts.items())),
            "parameters": sum(p.numel() for p in net.parameters()),
            "metrics": measured,
            "seconds": {"train": round(trained - began, 1), "measure": round(time.monotonic() - trained, 1)},
            "problems": [*problems][:50],
        }
        with atomically(folder / "run.json") as file:
            file.write((json.dumps(result, indent=1) + "\n").encode())
        kept.unlink(missing_ok=True)
        return result


def by_source(looked: Sequence[Looked], tagger: DomainTagger) -> dict[str, Any]:
    """Each source of fakes against all authentic pictures that were looked at."""
    real = [one for one in looked if one.row.tag == "authentic"]
    found = {}
    for source in sorted({one.row.source for one in looked if one.row.tag != "authentic"}):
        own = [one for one in looked if one.row.source == source and one.row.tag != "authentic"]
        found[source] = summary([*real, *own], tagger.map_threshold)
    return found
