"""Claims about the catalog: every set of the originals is in it by every name, it is whole, and the documents agree."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from dataset_makers import README_TREE, fill, readme_tree
from typer.testing import CliRunner

from internvl_detect.cli import app
from internvl_detect.data.datasets import catalog as module
from internvl_detect.data.datasets import command
from internvl_detect.data.datasets.catalog import UNSTATED, Dataset, catalog, dataset_named, key, load_catalog
from internvl_detect.data.datasets.readers import find_datasets
from internvl_detect.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
NAMED = [
    "CASIA2",
    "CASIAv2",
    "casia-v2",
    "CASIA v2.0",
    "FR",
    "FantasticReality",
    "Fantastic Reality",
    "CASIA1+",
    "CASIAv1+",
]
NAMED += [
    "IMD2020",
    "Columbia",
    "coverage",
    "NIST16",
    "DSO",
    "Korus",
    "FaceAPP",
    "FFHQ",
    "SD_inpaint",
    "COCO",
    "COCO2017",
]
NAMED += [
    "MMTD-Set-34k.json",
    "GenVideo",
    "GenImage",
    "CommunityForensics",
    "SID-Set",
    "FakeClue",
    "SynthScars",
    "FF++",
]
NAMED += ["FaceForensics++", "DFDC", "dfdc preview", "Deepfake-Eval-2024", "IVY-FAKE", "Community Forensics"]


@pytest.mark.parametrize("name", NAMED)
def test_every_set_is_known_by_its_names_whatever_their_case(name: str) -> None:
    assert dataset_named(name) is dataset_named(name.upper()) is dataset_named(f" {name.lower()}")


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match='Did you mean "FaceForensics'):
        dataset_named("FaceForensic")
    with pytest.raises(ConfigError, match="nown"):
        dataset_named("zzzzzz")


def test_every_part_of_the_readme_s_tree_is_in_the_catalog() -> None:
    parts = {part.name: row for row in catalog() for part in row.parts}
    for folder in README_TREE:
        domain, _, part = folder.partition("/")
        assert parts[part].domain == {"photoshop": "ps", "deepfake": "df", "aigc": "aigc"}[domain]


def test_every_row_says_what_a_user_must_know() -> None:
    for row in catalog():
        assert row.title and row.home.startswith("http") and row.citation and row.obtain and row.traps and row.splits
        assert row.licence and (row.parts or row.kind == "text")
        assert row.n_files is None or row.n_files > 0
        tags = {(part.label, part.domain_tag) for part in row.parts}
        kinds = {"real": {"authentic"}, "deepfake": {"deepfake"}, "ai_generated": {"ai_generated"}, "fake": {""}}
        assert all(tag in kinds.get(label, {"photoshop", "aigc_editing"}) for label, tag in tags)


def test_rows_cannot_be_changed_and_names_are_said_once() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalog()[0].name = "other"  # type: ignore[misc]
    names = [name for row in catalog() for name in {key(n) for n in (row.name, *row.aliases)}]
    assert len(names) == len(set(names))
    parts = [key(name) for row in catalog() for part in row.parts for name in (part.name, *part.aliases)]
    assert len(parts) == len(set(parts))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"licens": "MIT"}, 'Did you mean "licence"'),
        ({"domain": "pss"}, 'domain "pss"'),
        ({"kind": "sound"}, "kind"),
        ({"listing": "x"}, "listing"),
        ({"sources": "("}, "no regular expression"),
        ({"parts": [{"label": "real"}]}, "no name"),
        ({"parts": [{"name": "a", "label": "honest"}]}, 'label "honest"'),
        ({"parts": [{"name": "a", "label": "real", "domain_tag": "x"}]}, "domain_tag"),
        ({"parts": [{"name": "a", "label": "fake", "mask_of": ["x"]}]}, "mask_of"),
        ({"parts": [{"name": "a", "label": "fake", "published": [{"masks": "x"}]}]}, "no pictures"),
    ],
)
def test_a_row_that_is_wrong_is_named(change: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=f'(?s)dataset "Mine".*{said}'):
        load_catalog([{"name": "Mine", **change}])


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["data", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_of_the_page_is_what_the_program_prints() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text("utf-8")
    assert run("list") in re.findall(r"```text\n(.*?)```", page, flags=re.S)


def test_the_codes_of_the_page_are_those_of_the_readers() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text("utf-8")
    table = re.search(r"^\| code \|.*?\n\n", page, flags=re.M | re.S)
    told = set(
        re.findall(r"`([a-z-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", table[0] if table else "", flags=re.M)))
    )
    package = ROOT / "internvl_detect" / "data"
    readers = ("folders", "datasets/readers", "datasets/spots", "datasets/listings")
    sources = "".join((package / f"{name}.py").read_text("utf-8") for name in readers)
    made = set(re.findall(r'"(?:error|warning)", "([a-z-]+)"', sources))
    made |= set(re.findall(r'Finding\("error", "([a-z-]+)"', sources)) - {"error"}
    assert made == told and len(made) > 15


def test_a_folder_is_counted_by_dataset(tmp_path: Path) -> None:
    fill(readme_tree(tmp_path), ["own/real/1.jpg", "own/fake/2.jpg", "own/fake/3.jpg"])
    text = run("list", "--domain", "ps", "--root", str(tmp_path))
    assert re.search(r"^ +4  CASIA2 ", text, flags=re.M) and '3 files in "own", real/fake' in text
    values = json.loads(run("list", "--root", str(tmp_path), "--json"))
    assert values["here"]["files"]["FFHQ"] == 3 and values["here"]["findings"] == {}
    assert [row["name"] for row in values["datasets"]] == [row.name for row in catalog()]
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert "no dataset was found" in run("list", "--root", str(nothing))


def test_one_dataset_is_shown_in_full() -> None:
    for row in catalog():
        text = run("show", row.name)
        assert row.title in text and (row.licence in text or UNSTATED in text)
        assert all(part.name in text for part in row.parts)
        assert json.loads(run("show", row.name, "--json"))["n_files"] == row.n_files
    assert CliRunner().invoke(app, ["data", "show", "zzz"]).exit_code != 0
    with pytest.raises(ConfigError, match='unknown domain "x"'):
        command.list_text("x")


def test_the_worked_example_adds_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    given = re.search(r"```yaml\n( +- name: AutoSplice.*?)```", page, flags=re.S)
    assert given
    rows = load_catalog(yaml.safe_load(given[1]))
    known: tuple[Dataset, ...] = (*catalog(), *rows)
    monkeypatch.setattr(module, "catalog", lambda: known)
    for user in ("layouts", "readers"):
        monkeypatch.setattr(f"internvl_detect.data.datasets.{user}.catalog", lambda: known)
    paths = ["x/Authentic/12.jpg", "x/Forged_JPEG100/12_3.jpg", "x/Forged_JPEG75/12_3.jpg", "x/Mask/12_mask.png"]
    findings: list = []
    found = find_datasets(fill(tmp_path, paths), note=findings.append)
    made = {row.path: row for one in found for row in one.rows(findings.append)}
    assert findings == [] and {one.dataset.name for one in found} == {"AutoSplice"}
    assert [made[path].label for path in paths[:3]] == ["real", "tampered", "tampered"]
    assert [made[path].mask for path in paths[:3]] == ["", "x/Mask/12_mask.png", "x/Mask/12_mask.png"]
    assert len({row.group_id for row in made.values()}) == 1
