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
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.model.domain_tag import DomainTagger, save
from internvl_detect.model.tagger_net import Shape
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger import TagTraining, train_tagger
from internvl_detect.train.tagger_fit import Looked, fit, look_at, summary


def recipe_of(values: Mapping[str, Any]) -> TagTraining:
    """TagTraining of plain values, as YAML gives them. Raises ConfigError for a key or value that does not fit."""
    known = {f.name: f for f in dataclasses.fields(TagTraining)}
    given = dict(values)
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"the tagger's recipe has {unknown[0]!r}", expected=", ".join(known))
    try:
        if "shape" in given:
            shape = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(given["shape"]).items()}
            given["shape"] = Shape(**shape)
        for key in ("sizes_px", "shares"):
            if key in given:
                given[key] = tuple(given[key])
        how = TagTraining(**given)
        whole = all(isinstance(n, int) and n > 0 for n in (how.steps, how.batch, how.save_every, *how.sizes_px))
        if not whole or any(s % 32 for s in how.sizes_px) or len(how.shares) != 5 or not 0 < float(how.lr) < 1:
            raise ValueError(
                "steps, batch and sizes in whole numbers, sizes multiples of 32, five shares, a rate under 1"
            )
        if not 0 <= float(how.strength) <= 1:
            raise ValueError("a strength from 0 to 1")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the tagger's recipe cannot be used ({error})", do="see recipes/tagger.yaml") from None
    return how


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
    start: str | Path | None = None,
    echo: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train, fit and measure; returns what run.json holds. ``left_out`` sources are measured on and nothing else.

    ``start`` is the folder of a tagger to go on from. ``most`` pictures are looked at for validation, and as many for
    the test and for the left out ones each. Raises DataError where a split is missing.
    """
    folder, began = Path(out), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    inside = [row for row in rows if row.source not in left_out]
    parts = {split: [row for row in inside if row.split == split] for split in ("train", "val", "test")}
    for split in ("train", "val"):
        if not parts[split]:
            raise DataError(
                f"no pictures of the split {split!r}", expected="a manifest with splits train, val and test"
            )
    log = folder / "log.jsonl"

    def told(step: int, loss: float) -> None:
        seconds = round(time.monotonic() - began, 1)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "loss": round(loss, 4), "seconds": seconds}) + "\n")
        echo(f"step {step} of {how.steps}, loss {loss:.3f}, {seconds:.0f} s")

    net = train_tagger(parts["train"], folder, how, device=device, start=start, progress=told)
    trained = time.monotonic()
    problems: list[str] = []
    tagger = DomainTagger(net, name=folder.name, device=device)

    def seen(part: Sequence[TagRow]) -> list[Looked]:
        return list(look_at(tagger, drawn(part, most), problems=lambda path, why: problems.append(f"{path}: {why}")))

    fit(tagger, seen(parts["val"]))
    save(net, tagger.settings(), folder / "tagger")
    splits = {"val": parts["val"], "test": parts["test"]}
    away = [row for row in rows if row.source in left_out]
    splits["left_out"] = [*away, *(row for row in parts["test"] if row.tag == "authentic")] if away else []
    measured = {}
    for name, part in splits.items():
        if part:
            looked = seen(part)
            measured[name] = {"all": summary(looked, tagger.map_threshold), "by_source": by_source(looked, tagger)}
    counts = Counter(f"{row.split}/{row.tag}/{row.source}" for row in rows)
    result = {
        "recipe": json.loads(json.dumps(dataclasses.asdict(how))),
        "left_out": sorted(left_out),
        "rows": dict(sorted(counts.items())),
        "parameters": sum(p.numel() for p in net.parameters()),
        "metrics": measured,
        "seconds": {"train": round(trained - began, 1), "measure": round(time.monotonic() - trained, 1)},
        "problems": problems[:50],
    }
    with atomically(folder / "run.json") as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
    return result


def by_source(looked: Sequence[Looked], tagger: DomainTagger) -> dict[str, Any]:
    """Each source of fakes against all authentic pictures that were looked at."""
    real = [one for one in looked if one.row.tag == "authentic"]
    found = {}
    for source in sorted({one.row.source for one in looked if one.row.tag != "authentic"}):
        own = [one for one in looked if one.row.source == source and one.row.tag != "authentic"]
        found[source] = summary([*real, *own], tagger.map_threshold)
    return found
