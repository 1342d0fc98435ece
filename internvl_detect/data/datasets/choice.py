"""Which datasets to take, and how much of each: the originals' TRAIN_DATA_CHOICE, or a YAML file.

    for row in select(find_datasets("dataset", note=print), parse_choice("ps|CASIA2,FR; df|FaceAPP,FFHQ")): ...

Caps and balance keep the files of lowest hash of their path, so a choice stays what it was when other files come or go.
Not here: the choice among a meta JSON's datasets (``conversations.choose``), which reads the same text.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_detect.data.datasets.catalog import DOMAINS, catalog, key
from internvl_detect.data.datasets.listings import SPLITS
from internvl_detect.data.draws import number_of
from internvl_detect.data.findings import did_you_mean, show
from internvl_detect.data.folders import Note
from internvl_detect.data.labels import verity
from internvl_detect.errors import ConfigError

if TYPE_CHECKING:
    from internvl_detect.data.datasets.readers import FoundSet
    from internvl_detect.data.manifest import ManifestRow

ALL = "all"
BALANCES = ("", "all", "domain", "dataset")
MAX_WEIGHT = 10_000.0  # the most that a meta JSON's repeat_time may be


@dataclass(frozen=True)
class Term:
    """One name of a choice text. ``is_stated`` tells a domain written before this very name from one that goes on."""

    name: str
    domain: str = ""
    is_stated: bool = False


def parse_terms(text: str) -> list[Term]:
    """The names of ``ps|CASIA2,FR; df|FaceAPP``: a domain holds until the next one, or the next semicolon."""
    terms = []
    for group in text.split(";"):
        domain = ""
        for word in group.split(","):
            before, bar, name = word.rpartition("|")
            domain = before.strip().lower() if bar else domain
            if name.strip():
                terms.append(Term(name.strip(), domain, bool(bar)))
            elif bar and domain:
                raise ConfigError(f"no name after {show(word.strip())}", expected="domain|NAME", do=f"try {domain}|all")
    return terms


@dataclass(frozen=True)
class Pick:
    """One chosen dataset, or part of one, by name or alias; "all" for every one of ``domain``.

    ``weight`` is how often an epoch visits its rows (the meta JSON's repeat_time), above 0. ``cap`` is the most files
    to take, None for all.
    """

    name: str
    domain: str = ""
    weight: float = 1.0
    cap: int | None = None


@dataclass(frozen=True)
class Selection:
    """What to take: ``picks`` in order, everything when empty.

    ``balance`` takes as many real files as fake ones: "all" over everything, "domain" or "dataset" within each.
    ``split`` keeps the files of that split, and those of sets that have none of their own.
    """

    picks: tuple[Pick, ...] = ()
    balance: str = ""
    seed: int = 0
    split: str = ""

    def pick_of(self, dataset: str, part: str, domain: str) -> int | None:
        """The number of the first pick that means a part of a dataset; None where none does."""
        if not self.picks:
            return 0
        return next((i for i, pick in enumerate(self.picks) if _means(pick, dataset, part, domain)), None)

    def weight_of(self, dataset: str, part: str = "", domain: str = "") -> float:
        """The weight of a dataset; 1 where it is not chosen by name."""
        at = self.pick_of(dataset, part, domain)
        return self.picks[at].weight if self.picks and at is not None else 1.0


def parse_choice(text: str) -> Selection:
    """The selection of a choice text; everything when it is empty or "all".

    Raises ConfigError for an unknown domain, and for a dataset of the catalog in another domain than its own.
    """
    return Selection(tuple(_checked(Pick(term.name, term.domain)) for term in parse_terms(text)))


def load_selection(given: str | Path | Mapping[str, Any]) -> Selection:
    """The selection of a YAML file, or of such a mapping.

        datasets: {"ps|CASIA2": {weight: 2, cap: 5000}, FR: {}}   # or the text of a choice
        balance: domain
        seed: 1
        split: train

    Raises ConfigError naming the key.
    """
    if not isinstance(given, (str, Path)):
        return _selection(given)
    from internvl_detect.files import read_yaml

    try:
        return _selection(read_yaml(given))
    except ConfigError as error:
        where = "" if str(given) in error.found else f"{given}: "
        raise ConfigError(where + error.found, expected=error.expected, do=error.do) from None


def _selection(values: Mapping[str, Any]) -> Selection:
    _known(values, ("datasets", "balance", "seed", "split"), "a selection")
    datasets = values.get("datasets")
    if isinstance(datasets, list) and all(isinstance(name, str) for name in datasets):
        datasets = ";".join(datasets)
    if datasets is None or isinstance(datasets, str):
        picks = parse_choice(datasets or "").picks
    elif isinstance(datasets, dict) and all(isinstance(name, str) for name in datasets):
        picks = tuple(pick for name, about in datasets.items() for pick in _picks(name, about))
    else:
        raise ConfigError(f"datasets is {show(datasets)}", expected="names with their settings, or a choice text")
    balance = values.get("balance") or ""
    balance = "all" if balance is True else balance
    if balance not in BALANCES:
        raise ConfigError(f"balance is {show(balance)}", expected="all, domain, dataset, or nothing")
    seed = values.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed is {show(seed)}", expected="a whole number")
    split = values.get("split") or ""
    if split and (not isinstance(split, str) or split.lower() not in SPLITS):
        raise ConfigError(f"split is {show(split)}", expected="train, val or test")
    return Selection(picks, balance, seed, SPLITS[split.lower()] if split else "")


def _picks(name: str, about: Any) -> Iterator[Pick]:
    about = {} if about is None else about
    if not isinstance(about, dict):
        raise ConfigError(f"{show(name)} is {show(about)}", expected="{weight: ..., cap: ...}")
    _known(about, ("weight", "cap"), show(name))
    weight, cap = about.get("weight", 1.0), about.get("cap")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight <= MAX_WEIGHT:
        raise ConfigError(f"{show(name)}: weight is {show(weight)}", expected=f"above 0, at most {MAX_WEIGHT:g}")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ConfigError(f"{show(name)}: cap is {show(cap)}", expected="a whole number of files, at least 1")
    for pick in parse_choice(name).picks:
        yield dataclasses.replace(pick, weight=float(weight), cap=cap)


def _known(values: Mapping[Any, Any], names: tuple[str, ...], where: str) -> None:
    for name in values:
        if name not in names:
            raise ConfigError(f"{where}: unknown key {show(name)}", do=did_you_mean(str(name), names))


def _checked(pick: Pick) -> Pick:
    if pick.domain and pick.domain not in DOMAINS:
        raise ConfigError(f"unknown domain {show(pick.domain)}", do=did_you_mean(pick.domain, DOMAINS))
    row = next((r for r in catalog() if is_name(pick.name, r.name, "")), None)
    if row is not None and pick.domain and row.domain not in ("", pick.domain):
        found = f"{show(f'{pick.domain}|{pick.name}')}: {row.name} is in {row.domain}"
        raise ConfigError(found, do=f"write {row.domain}|{row.name}")
    return pick


def is_name(word: str, dataset: str, part: str) -> bool:
    """Whether a word of a choice names a dataset (by an alias, too) or a part of it, case aside."""
    if key(word) in (key(dataset), key(part)):
        return True
    row = next((r for r in catalog() if r.name == dataset), None)
    if row is None:
        return False
    return row.is_called(word) or any(key(part) == key(p.name) and key(word) in map(key, p.aliases) for p in row.parts)


def _means(pick: Pick, dataset: str, part: str, domain: str) -> bool:
    if pick.domain and domain and pick.domain != domain:
        return False
    if pick.name.lower() == ALL:
        return not pick.domain or pick.domain == domain
    return is_name(pick.name, dataset, part)


def _silent(_: object) -> None:
    pass


def select(found: Iterable[FoundSet], selection: Selection, *, note: Note = _silent) -> Iterator[ManifestRow]:
    """The chosen rows, set by set in the order of ``found``; ``note`` gets what is wrong with the files.

    Caps and balance need the files counted first: then the folders are read twice, and 8 bytes a file are held. Raises
    ConfigError for a pick that means nothing found, and where a balance finds no file of one kind.
    """
    chosen = _Chosen(list(found), selection)
    chosen.check_names()
    return chosen.rows(note)


class _Chosen:
    """The rows of one selection; counts them first where a limit has to be found."""

    def __init__(self, found: list[FoundSet], selection: Selection) -> None:
        self.found, self.selection = found, selection
        self._picks: dict[tuple[str, str, str], int | None] = {}
        self.caps: dict[int, int] = {}
        self.limits: dict[tuple[str, str], int] = {}

    def check_names(self) -> None:
        """Raises ConfigError for the first pick that no dataset answers to."""
        known: dict[tuple[str, str, str], None] = {}
        for one in self.found:
            if one.layout != "manifest":
                known[one.dataset.name, one.part, one.dataset.domain] = None
            elif self.selection.picks:  # its rows say which datasets they are of
                known.update({(r.dataset, one.part, r.domain): None for r in one.rows(_silent)})
        for pick in self.selection.picks:
            if not any(_means(pick, *names) for names in known):
                self._missing(pick, [names[0] for names in known])

    def _missing(self, pick: Pick, names: list[str]) -> None:
        word = f"{pick.domain}|{pick.name}" if pick.domain else pick.name
        row = next((r for r in catalog() if is_name(pick.name, r.name, "")), None)
        here = ", ".join(dict.fromkeys(names)) or "nothing"
        if row is not None:
            raise ConfigError(f"{show(word)}: {row.name} is not in the folder, which holds {here}", do=row.obtain)
        every = [*dict.fromkeys(names), *(n for r in catalog() for n in (r.name, *r.aliases))]
        raise ConfigError(
            f"no dataset is called {show(word)}; the folder holds {here}", do=did_you_mean(pick.name, every)
        )

    def _all(self, note: Note) -> Iterator[tuple[ManifestRow, int, int]]:
        """(row, number of its pick, hash) of every row that is chosen by name and split."""
        split, seed = self.selection.split, self.selection.seed
        for one in self.found:
            if one.layout != "manifest" and self._pick(one.dataset.name, one.part, one.dataset.domain) is None:
                continue
            for row in one.rows(note):
                at = self._pick(row.dataset, one.part, row.domain)
                if at is not None and (not split or row.split in ("", split)):
                    yield row, at, number_of(f"{seed}\n{row.path}")

    def _pick(self, *names: str) -> int | None:
        if names not in self._picks:
            self._picks[names] = self.selection.pick_of(*names)  # type: ignore[index]
        return self._picks[names]  # type: ignore[index]

    def rows(self, note: Note) -> Iterator[ManifestRow]:
        if self.selection.balance or any(pick.cap is not None for pick in self.selection.picks):
            self._count()
        for row, at, place in self._all(note):
            if place <= self.caps.get(at, place) and place <= self.limits.get(self._bucket(row), place):
                yield row

    def _bucket(self, row: ManifestRow) -> tuple[str, str]:
        within = {"domain": row.domain, "dataset": row.dataset}.get(self.selection.balance, "")
        return within, verity(row.label)

    def _count(self) -> None:
        """Finds the highest hash that each pick, and each side of a balance, may have."""
        places: dict[tuple[int, tuple[str, str]], array[int]] = {}
        for row, at, place in self._all(_silent):
            places.setdefault((at, self._bucket(row)), array("Q")).append(place)
        kept: dict[tuple[str, str], list[np.ndarray]] = {}
        for at in {at for at, _ in places}:
            mine = {bucket: np.frombuffer(held, np.uint64) for (a, bucket), held in places.items() if a == at}
            cap = self.selection.picks[at].cap if self.selection.picks else None
            every = np.concatenate(list(mine.values()))
            if cap is not None and cap < len(every):
                self.caps[at] = int(np.partition(every, cap - 1)[cap - 1])
            for bucket, held in mine.items():
                kept.setdefault(bucket, []).append(held[held <= self.caps.get(at, 2**64 - 1)])
        if self.selection.balance:
            self._balance({bucket: np.concatenate(parts) for bucket, parts in kept.items()})

    def _balance(self, kept: dict[tuple[str, str], np.ndarray]) -> None:
        for within in dict.fromkeys(within for within, _ in kept):
            sides = {side: kept.get((within, side), np.zeros(0, np.uint64)) for side in ("real", "fake")}
            fewest = min(len(held) for held in sides.values())
            if fewest == 0:
                lacking = next(side for side, held in sides.items() if not len(held))
                where = f" in {self.selection.balance} {show(within)}" if within else ""
                hint = "choose a set that has them too, or balance over more: domain, all"
                raise ConfigError(f"balance: no {lacking} file{where}", expected="real and fake files", do=hint)
            for side, held in sides.items():
                if fewest < len(held):
                    self.limits[within, side] = int(np.partition(held, fewest - 1)[fewest - 1])
