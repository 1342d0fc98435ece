"""Claims about ``ivdetect data check`` of files: its outputs and codes, and a page that strangers cannot use."""

from __future__ import annotations

import html.parser
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from internvl_detect.cli import app
from internvl_detect.cli.data_check import rows_of
from internvl_detect.data.findings import Finding
from internvl_detect.data.manifest import ManifestRow
from internvl_detect.data.survey.facts_cache import CACHE_NAME
from internvl_detect.data.survey.whole import survey
from internvl_detect.errors import ConfigError, DataError
from internvl_detect.evaluate.shortcut_words import as_findings, compare
from internvl_detect.report.contact_sheet import contact_sheet
from internvl_detect.report.survey import SHOWN, SHOWN_IN_TEXT, render, survey_report, to_json, to_text
from internvl_detect.report.survey_words import PLAIN

EVIL = [
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror=1>.jpg',
    "{{ 7 * 7 }}.jpg",
    "a\u202egpj.exe",
    "b\x1b[31m",
]


def scene(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest: 12 real and 12 tampered pictures of other sizes, with masks."""
    lines = ["path,label,mask,dataset,split"]
    root = tmp_path / "set"
    root.mkdir()
    mask = Image.new("L", (64, 48))
    mask.paste(255, (20, 10, 40, 30))
    mask.save(root / "mask.png")
    for i in range(24):
        scene(i, (64, 48) if i % 2 else (72, 48)).save(root / f"{i}.jpg", quality=90)
        lines.append(f"{i}.jpg,{'tampered' if i % 2 else 'real'},{'mask.png' if i % 2 else ''},casia,train")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def run(*words: object) -> tuple[int, str]:
    given = CliRunner().invoke(app, ["data", "check", *map(str, words), "--workers", "1"])
    if given.exception is not None and not isinstance(given.exception, SystemExit):
        raise given.exception
    return given.exit_code, given.stdout


def test_a_folder_is_checked_and_its_shortcut_named_first(folder, tmp_path):
    code, said = run(folder, "--out", tmp_path / "out")
    assert code == 0
    assert said.startswith("Shortcuts, real against tampered (12 and 12 files):")
    assert (
        "by the size in pixels alone the label can be told (AUC 1.00" in said and "What to do: crop or resize" in said
    )
    assert "casia, train, tampered: 12 of 12 files usable, 12 masks" in said
    assert (folder / CACHE_NAME).exists()
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert set(report) >= {"files", "usable", "shortcuts", "counts", "by_code", "findings", "notes", "exit_code"}
    assert report["shortcuts"][0]["features"]["size"] | {"values": 0} == {
        "auc": 1.0,
        "low": 1.0,
        "high": 1.0,
        "values": 0,
    }
    page = (tmp_path / "out" / "check.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 16 and "<script" not in page


def test_the_json_on_standard_output_is_the_file_and_a_second_run_is_the_same(folder, tmp_path):
    first = run(folder, "--json", "--out", tmp_path / "out", "--cache", tmp_path / "facts.sqlite")
    assert first[0] == 0 and json.loads(first[1]) == json.loads((tmp_path / "out" / "check.json").read_text())
    assert run(folder / "manifest.csv", "--json", "--cache", tmp_path / "facts.sqlite")[1] == first[1]
    assert not (folder / CACHE_NAME).exists()


def test_errors_give_code_5_and_a_line_of_the_manifest_that_cannot_be_read_is_told(folder):
    (folder / "3.jpg").unlink()
    with open(folder / "manifest.csv", "a") as file:
        file.write("x.jpg,what,,,\n")
    code, said = run(folder)
    assert code == 5
    assert "missing-file: 3.jpg: the file is not there" in said and 'manifest.csv:26: unknown label "what"' in said
    assert re.search(r"24 files, 2 errors, \d+ warnings\n$", said)


def test_files_need_not_be_opened(folder):
    (folder / "5.jpg").write_text("broken")
    assert run(folder, "--no-media")[0] == 0 and run(folder)[0] == 5


def test_options_of_the_other_kind_of_check_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="--model"):
        run(folder, "--model", "nano")
    with pytest.raises(ConfigError, match='no dataset is called "x"'):
        run(folder, "--choice", "x")
    with pytest.raises(ConfigError, match="--out"):
        run(tmp_path / "meta.json", "--out", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no dataset found in"):
        run(tmp_path / "empty")


def test_a_choice_takes_some_of_the_datasets_and_a_wrong_one_is_answered(folder):
    with pytest.raises(ConfigError, match="holds casia"):
        run(folder, "--choice", "x")
    assert run(folder, "--choice", "casia")[1].endswith(run(folder)[1].splitlines()[-1] + "\n")


class Page(html.parser.HTMLParser):
    """Collects tags and attributes as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str | None, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen += [(tag, name, value) for name, value in attrs] or [(tag, None, None)]


def test_names_of_strangers_do_nothing_on_the_page_or_the_terminal(tmp_path):
    rows = []
    for i, name in enumerate([*EVIL, os.fsdecode(b"\xff.jpg"), "new\nline.jpg"]):
        if "/" not in name:
            scene(i).save(tmp_path / name, "JPEG")
        rows.append(ManifestRow(name, "real" if i % 2 else "tampered", dataset=name, split=name, mask=name + "m"))
    findings = [Finding("error", "odd", EVIL[0], 0, EVIL[1], EVIL[2], EVIL[0])]
    found = survey(rows, tmp_path, workers=1, findings=findings)
    for finding in as_findings(compare(found)):
        found.add(finding)
    report = survey_report(found, [one.to_dict() for one in compare(found)], root=EVIL[0])
    page = "".join(render(report, sheet=contact_sheet(found, tmp_path)))
    page.encode("utf-8")
    seen = Page()
    seen.feed(page)
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _, _ in seen.seen}
    attributes = [(name or "", value or "") for _, name, value in seen.seen]
    assert not [a for a in attributes if a[0].startswith("on")]
    assert all(value.startswith("data:") for name, value in attributes if name == "src")
    assert "49.jpg" not in page and "\u202e" not in page and "\x1b" not in page
    text = to_text(report)
    assert all(line.isprintable() for line in text.splitlines()) and text.encode("utf-8")
    assert EVIL[1] in [finding["problem"] for finding in json.loads(to_json(report))["findings"]]


def test_a_mask_is_outlined_and_the_sheet_follows_from_its_seed(folder):
    rows = [ManifestRow(f"{i}.jpg", "tampered", mask="mask.png" if i == 1 else "") for i in range(1, 24, 2)]
    found = survey(rows, folder, workers=1)
    sheet = contact_sheet(found, folder, each=12)
    plain = survey([ManifestRow("1.jpg", "tampered")], folder, workers=1)
    assert len(sheet) == 1 and [name for name, _ in sheet[0].pictures] == [row.path for row in rows]
    assert sheet[0].pictures[0][1] != contact_sheet(plain, folder)[0].pictures[0][1]
    few = [contact_sheet(found, folder, each=4, seed=seed)[0].pictures for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2] and len(few[0]) == 4


def test_many_findings_are_counted_and_not_all_shown(tmp_path):
    found = survey([ManifestRow(f"{i}.jpg", "real") for i in range(SHOWN + 5)], tmp_path, workers=1)
    report = survey_report(found)
    assert f"missing-file: ... and {SHOWN + 5 - SHOWN_IN_TEXT} more" in to_text(report)
    assert "and 5 more" in "".join(render(report))


def test_what_it_comes_to_is_said_in_plain_words_errors_first_and_the_page_begins_with_it(folder):
    (folder / "3.jpg").unlink()
    (folder / "5.jpg").write_bytes((folder / "7.jpg").read_bytes())
    rows, findings = rows_of(folder, [])[0], []
    report = survey_report(survey(rows, folder, workers=1, findings=findings))
    codes = [one["code"] for one in report["summary"]]
    assert codes[0] == "missing-file" and "duplicate" in codes and [one["n"] for one in report["summary"]][0] == 1
    said = to_text(report).splitlines()
    assert said[-1 - len(codes)].startswith("error         1 files that are listed and not there -> get them again")
    page = "".join(render(report))
    assert page.index("files that are listed and not there") < page.index("<h2>Files")
    assert all(f'href="#{code}"' in page and f'id="{code}"' in page for code in codes)


def test_every_code_of_the_documents_is_told_in_plain_words():
    home = Path(__file__).parents[1]
    for name in ("data-check", "datasets"):
        text = (home / "docs" / f"{name}.md").read_text("utf-8")
        tables = re.findall(r"\| code \|.*?\n\n", text + "\n", flags=re.S)
        cells = [row.split("|")[1] for table in tables for row in table.strip().splitlines()[2:]]
        codes = {code for cell in cells for code in re.findall(r"`([a-z-]+)`", cell)}
        assert len(codes) > 12 and codes <= set(PLAIN)


def test_the_page_on_the_check_names_every_code():
    home = Path(__file__).parents[1]
    page = (home / "docs" / "data-check.md").read_text("utf-8")
    used: set[str] = set()
    for name in (
        "data/survey/whole",
        "data/survey/facts",
        "data/survey/measure",
        "evaluate/shortcut_words",
        "cli/data_check",
    ):
        text = (home / "internvl_detect" / f"{name}.py").read_text("utf-8")
        used |= {a or b for a, b in re.findall(r'(?:"error"|"warning"), "([a-z-]+)"|code="([a-z-]+)"', text)}
    assert len(used) > 12 and {code for code in used if f"`{code}`" not in page} == {"unopened"}
