"""Claims about the choice of datasets: the originals' texts, the YAML, and caps and balance that stay put."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from dataset_makers import fill, readme_tree
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.data.conversations.meta import DatasetEntry, choose
from internvl_detect.data.datasets.catalog import Dataset, plain_dataset
from internvl_detect.data.datasets.choice import (
    Pick,
    Selection,
    Term,
    load_selection,
    parse_choice,
    parse_terms,
    select,
)
from internvl_detect.data.datasets.readers import find_datasets
from internvl_detect.data.findings import Finding
from internvl_detect.data.labels import verity
from internvl_detect.data.manifest import ManifestRow, write_manifest
from internvl_detect.errors import ConfigError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return readme_tree(tmp_path_factory.mktemp("dataset"))


def chosen(root: Path, selection: Selection) -> list[ManifestRow]:
    return list(select(find_datasets(root, note=lambda f: None), selection, note=lambda f: None))


def test_a_domain_holds_until_the_next_one_or_a_semicolon() -> None:
    assert parse_terms("ps|CASIA2, FR ,df|FaceAPP;x") == [
        Term("CASIA2", "ps", True),
        Term("FR", "ps", False),
        Term("FaceAPP", "df", True),
        Term("x", "", False),
    ]
    assert parse_terms(" ; ,, ") == []
    with pytest.raises(ConfigError, match=r"ps\|all"):
        parse_terms("ps|")


def test_the_same_text_chooses_among_the_datasets_of_a_meta_json() -> None:
    domains = {"CASIA2": "ps", "FR": None, "FaceAPP": "df", "FFHQ": "DF"}
    entries = [DatasetEntry(name, "/", "/a", domain=domain) for name, domain in domains.items()]

    def names(text: str) -> list[str]:
        return [entry.name for entry in choose(entries, text)]

    assert names("ps|CASIA2,FR,df|FaceAPP,FFHQ") == names("ps|casia2,fr; df|faceapp,ffhq") == list(domains)
    assert names("ps|CASIA2;FaceAPP") == ["CASIA2", "FaceAPP"]
    assert names("df|all") == ["FaceAPP", "FFHQ"] and names("all") == names(" ; ,") == list(domains)
    for wrong in ("ps|CASIA2,FaceAPP", "df|CASIA2", "ps|FR", "xx|all", "ps|"):
        with pytest.raises(ConfigError):
            choose(entries, wrong)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ps|CASIA2,FR", {"CASIA2", "FR"}),
        ("ps|CASIA1+", {"CASIA1+"}),
        ("df|FaceAPP,FFHQ", {"FaceAPP", "FFHQ"}),
        ("aigc|SD_inpaint,COCO", {"SD_inpaint", "COCO2017"}),
        ("ps|casia2.0, Fantastic Reality; df|faceapp,aigc|MSCOCO", {"CASIA2", "FR", "FaceAPP", "COCO2017"}),
        ("df|all", {"FaceAPP", "FFHQ"}),
        ("CASIAv2_Au, Coverage", {"CASIA2", "coverage"}),
    ],
)
def test_the_originals_choices_pick_what_they_name(tree: Path, text: str, names: set[str]) -> None:
    assert {row.dataset for row in chosen(tree, parse_choice(text))} == names


def test_all_and_nothing_take_everything(tree: Path) -> None:
    everything = chosen(tree, Selection())
    assert len(everything) > 20
    for text in ("", "all", "ALL", "ps|all; df|all; aigc|all"):
        assert chosen(tree, parse_choice(text)) == everything


def test_a_part_can_be_chosen_alone(tree: Path) -> None:
    rows = chosen(tree, parse_choice("ps|CASIA2_AU"))
    assert {row.label for row in rows} == {"real"} and {row.dataset for row in rows} == {"CASIA2"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ps|CASIA3", 'Did you mean "CASIA2"'),
        ("ps|COVRAGE", "Did you mean"),
        ("df|CASIA2", r"write ps\|CASIA2"),
        ("sp|CASIA2", 'unknown domain "sp"'),
        ("GenImage", "is not in the folder.*[Dd]ownload"),
    ],
)
def test_a_wrong_choice_says_what_was_meant(tree: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?i){said}"):
        chosen(tree, parse_choice(text))


def test_a_split_keeps_its_own_files_and_those_of_sets_without_splits(tree: Path) -> None:
    rows = chosen(tree, Selection(split="val"))
    assert {row.split for row in rows} == {"val", ""}
    assert {row.path.split("/")[1] for row in rows if row.split} == {
        *("FaceAPP_Val", "FFHQ_Val", "SD_inpaint_Val", "COCO2017_Val")
    }


def test_rows_of_a_manifest_are_chosen_by_the_dataset_that_they_name(tmp_path: Path) -> None:
    rows = [ManifestRow("a.png", "real", dataset="CASIA2", domain="ps"), ManifestRow("b.png", "ai", dataset="Mine")]
    write_manifest(tmp_path / "manifest.csv", [replace(row, label=verity(row.label)) for row in rows])
    assert [row.path for row in chosen(tmp_path, parse_choice("ps|casia-v2"))] == ["a.png"]
    assert [row.path for row in chosen(tmp_path, parse_choice("mine"))] == ["b.png"]
    with pytest.raises(ConfigError, match="holds CASIA2, Mine"):
        chosen(tmp_path, parse_choice("FR"))


def test_a_selection_is_read_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "selection.yaml"
    file.write_text(
        "datasets:\n  ps|CASIA2: {weight: 2, cap: 5000}\n  FR:\nbalance: domain\nseed: 3\nsplit: Validation\n"
    )
    assert load_selection(file) == Selection(
        (Pick("CASIA2", "ps", 2.0, 5000), Pick("FR")), balance="domain", seed=3, split="val"
    )
    assert load_selection({"datasets": "ps|CASIA2,FR", "balance": True}).balance == "all"
    assert load_selection({"datasets": ["ps|CASIA2", "FR"]}).picks == (Pick("CASIA2", "ps"), Pick("FR"))
    assert load_selection({}) == Selection()
    weights = load_selection(file)
    assert (weights.weight_of("CASIA2"), weights.weight_of("FR"), weights.weight_of("DSO")) == (2.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dataset": {}}, 'Did you mean "datasets"'),
        ({"datasets": 5}, "datasets is 5"),
        ({"datasets": {5: {}}}, "datasets is"),
        ({"datasets": {"FR": {"wieght": 1}}}, 'Did you mean "weight"'),
        ({"datasets": {"FR": {"weight": 0}}}, "weight is 0"),
        ({"datasets": {"FR": {"weight": float("nan")}}}, "weight is nan"),
        ({"datasets": {"FR": {"weight": "2"}}}, "weight is"),
        ({"datasets": {"FR": {"cap": 0}}}, "cap is 0"),
        ({"datasets": {"FR": {"cap": True}}}, "cap is True"),
        ({"datasets": {"FR": []}}, r"is \[\]"),
        ({"datasets": "zz|FR"}, "unknown domain"),
        ({"balance": "class"}, 'balance is "class"'),
        ({"balance": [1]}, "balance is"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"split": "trian"}, 'split is "trian"'),
    ],
)
def test_a_wrong_selection_says_which_key(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_selection(values)


def test_a_file_that_is_no_selection_is_named(tmp_path: Path) -> None:
    file = tmp_path / "selection.yaml"
    for text in ("datasets: {FR: {cap: -1}}", "- a", "a: [", "seed: 1\nseed: 2"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"selection\.yaml"):
            load_selection(file)


def test_balance_without_one_side_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["photoshop/FR_Tp/image/1.jpg", "photoshop/FR_Tp/image/2.jpg", "deepfake/FFHQ_Val/image/3.png"])
    assert len(chosen(tmp_path, Selection(balance="all"))) == 2
    for balance, said in (("domain", 'no fake file in domain "df"'), ("dataset", 'no fake file in dataset "FFHQ"')):
        with pytest.raises(ConfigError, match=said):
            chosen(tmp_path, Selection(balance=balance))
    with pytest.raises(ConfigError, match="no real file"):
        chosen(tmp_path, replace(parse_choice("FR"), balance="all"))


def test_sets_whose_files_have_the_same_names_are_capped_exactly(tmp_path: Path) -> None:
    fill(tmp_path, [f"FR_{part}/image/{n}.jpg" for part in ("Tp", "Au") for n in range(10)])
    for cap in range(1, 20):
        assert len(chosen(tmp_path, Selection((Pick("FR", cap=cap),)))) == cap


@dataclass(frozen=True)
class Made:
    """A found set of made-up rows: {path: label}."""

    dataset: Dataset
    labels: dict[str, str] = field(hash=False)
    part: str = "part"
    folder: str = ""
    layout: str = "real/fake"

    def rows(self, note: Callable[[Finding], None]) -> Iterator[ManifestRow]:
        name, domain = self.dataset.name, self.dataset.domain
        for path, label in sorted(self.labels.items()):
            yield ManifestRow(f"{name}/{path}", label, dataset=name, domain=domain)


labels = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.sampled_from(["real", "tampered", "ai_generated"]))
sets = st.fixed_dictionaries({"one": labels, "two": labels, "three": labels})
DOMAIN = {"one": "ps", "two": "ps", "three": "df"}


def taken(given_sets: dict[str, dict[str, str]], selection: Selection) -> set[tuple[str, str]]:
    found = [Made(plain_dataset(name, DOMAIN[name]), rows) for name, rows in given_sets.items()]
    try:
        rows = list(select(found, selection))  # type: ignore[arg-type]
    except ConfigError:
        return set()
    assert len({row.path for row in rows}) == len(rows)
    return {(row.dataset, row.path.partition("/")[2]) for row in rows}


def caps(*numbers: int) -> Selection:
    return Selection(tuple(Pick(name, cap=n) for name, n in zip(DOMAIN, numbers, strict=True)))


@given(sets, st.integers(1, 30), st.integers(1, 30), st.integers(0, 3))
def test_a_cap_is_kept_exactly_and_a_larger_one_holds_the_smaller(made: dict, cap: int, more: int, seed: int) -> None:
    small = taken(made, replace(caps(cap, cap, cap), seed=seed))
    large = taken(made, replace(caps(cap + more, cap + more, cap + more), seed=seed))
    counts = Counter(name for name, _ in small)
    assert all(counts[name] == min(cap, len(rows)) for name, rows in made.items())
    assert small <= large


@given(sets, st.sampled_from(["all", "domain", "dataset"]), st.integers(1, 20), st.integers(0, 3))
def test_a_balance_is_exact_and_as_large_as_it_can_be(made: dict, balance: str, cap: int, seed: int) -> None:
    selection = replace(caps(cap, cap, 99), balance=balance, seed=seed)
    rows, capped = taken(made, selection), taken(made, replace(selection, balance=""))
    key = {"all": lambda name: "", "domain": DOMAIN.get, "dataset": str}[balance]

    def sides(pairs: set[tuple[str, str]]) -> Counter:
        return Counter((key(name), verity(made[name][path])) for name, path in pairs)

    before, after = sides(capped), sides(rows)
    buckets = {bucket for bucket, _ in before}
    fewest = {bucket: min(before[bucket, "real"], before[bucket, "fake"]) for bucket in buckets}
    if rows:
        assert rows <= capped
        assert all(after[b, side] == fewest[b] for b in buckets for side in ("real", "fake"))
    else:
        assert not buckets or min(fewest.values()) == 0


@given(sets, st.integers(1, 10), st.data())
def test_files_that_come_or_go_move_no_others(made: dict, cap: int, data: st.DataObject) -> None:
    selection = caps(cap, cap, cap)
    before = taken(made, selection)
    paths = sorted(made["one"])
    if not paths:
        return
    gone = data.draw(st.sampled_from(paths))
    fewer = {**made, "one": {p: label for p, label in made["one"].items() if p != gone}}
    after = taken(fewer, selection)
    assert before - {("one", gone)} <= after
    assert len(after - before) <= (("one", gone) in before)


@given(sets, st.integers(1, 10))
def test_another_seed_takes_others_and_the_same_seed_the_same(made: dict, cap: int) -> None:
    selection = caps(cap, cap, cap)
    assert taken(made, selection) == taken(made, replace(selection, seed=0))
    many = {"one": {f"{n}": "real" for n in range(200)}, "two": {}, "three": {}}
    assert taken(many, selection) != taken(many, replace(selection, seed=1))


@given(st.text("ps|df,;all CASIA2FR+", max_size=30))
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    try:
        selection = parse_choice(text)
    except ConfigError:
        return
    taken({"one": {"a": "real"}, "two": {}, "three": {}}, selection)
