"""The report of a batch: a table that loads nothing, JSON that keeps its schema, strangers' text that stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import jsonschema
import pytest
from test_report import NASTY, Page, clip, full_of, verdict

from internvl_detect.detect.results_file import encode_row, load_rows
from internvl_detect.errors import ConfigError
from internvl_detect.report import words
from internvl_detect.report.batch import render_index
from internvl_detect.report.command import write
from internvl_detect.report.html import render
from internvl_detect.report.markdown import to_markdown
from internvl_detect.report.schema import schema
from internvl_detect.verdict import Evidence, Failure

ROOT = Path(__file__).resolve().parents[1]
SAID = Evidence("c2pa", "Valid record of X.", None, {"strength": "decides", "says": "ai_generated", "signed_by": "X"})
CAMERA = Evidence("c2pa", "Taken by a camera.", None, {"strength": "strong", "says": "camera"})


def index_of(rows, links=None) -> str:
    made = {"made at": "2024-05-01 10:00 UTC"}
    return "".join(render_index(rows, made_with=made, title="Report", links=links or [""] * len(rows)))


def test_the_published_schema_is_that_of_the_dataclasses():
    published = json.loads((ROOT / "docs" / "schema" / "verdict.schema.json").read_text("utf-8"))
    assert published == schema()
    jsonschema.Draft202012Validator.check_schema(published)


def test_rows_keep_the_schema_and_what_is_none_breaks_it():
    check = jsonschema.Draft202012Validator(schema())
    rows = [verdict(evidence=(SAID,), width=3, height=4, sha256="a"), clip(), Failure("x", "broken", 3), *full_of("t")]
    for row in rows:
        check.validate(json.loads(encode_row(row.to_dict())))
    good = json.loads(encode_row(verdict().to_dict()))
    for change in (
        {"score": 1.5},
        {"decision": "real"},
        {"evidence": [{"source": "a"}]},
        {"frames": {}},
        {"path": None},
    ):
        assert not check.is_valid(good | change)


def test_a_folder_gets_the_table_the_json_and_the_markdown(tmp_path, photo):
    rows = [verdict(path=str(photo())), clip(), Failure("x/broken.png", "No PNG. Get it again.", 3)]
    assert write(rows, tmp_path / "report") == tmp_path / "report" / "index.html"
    names = sorted(p.name for p in (tmp_path / "report").iterdir())
    assert names == ["index.html", "report.json", "report.md"]
    page = Page((tmp_path / "report" / "index.html").read_text("utf-8"))
    assert len([1 for tag, _ in page.tags if tag == "tr"]) >= 1 + len(rows)
    assert len([1 for tag, _ in page.tags if tag == "img"]) == 1 and "Get it again." in page.text
    stored = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    jsonschema.Draft202012Validator({"$ref": "#/$defs/report", "$defs": schema()["$defs"]}).validate(stored)
    assert [row["path"] for row in stored["rows"]] == [row.path for row in rows] and stored["made_with"]["made at"]


def test_each_adds_a_page_for_every_file_and_links_to_it(tmp_path, photo):
    rows = [verdict(path=str(photo("a b.png"))), verdict(path="../../etc/<x>.png"), Failure("x", "broken", 3)]
    write(rows, tmp_path / "out", each=True)
    page = Page((tmp_path / "out" / "index.html").read_text("utf-8"))
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert len(set(links)) == 3 and all(re.fullmatch(r"files/\d{5}_[\w.-]+\.html", link) for link in links)
    assert all((tmp_path / "out" / link).is_file() for link in links)
    assert len(list((tmp_path / "out" / "files").iterdir())) == 3


def test_what_a_report_is_follows_from_its_name(tmp_path):
    assert write([verdict()], tmp_path / "r.md").suffix == ".md"
    (tmp_path / "v1.2").mkdir()
    assert write([verdict()], tmp_path / "v1.2").name == "index.html"
    for out, each in ((tmp_path / "r.pdf", False), (tmp_path / "r.html", True)):
        with pytest.raises(ConfigError):
            write([verdict()], out, each=each)


@pytest.mark.parametrize("text", NASTY)
def test_no_text_of_a_stranger_changes_the_structure_of_the_table(text):
    hostile, plain = (Page(index_of(full_of(t))) for t in (text, "harmless"))
    assert hostile.skeleton == plain.skeleton
    assert words.visible(f"w{text}", 200) in hostile.text.replace('"', "") or '"' in text


def test_the_only_script_is_ours_by_its_hash_and_nothing_is_loaded():
    source = index_of([verdict(), clip()])
    page = Page(source)
    scripts = re.findall(r"<script>(.*?)</script>", source, flags=re.S)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none'")
    assert not [1 for tag, a in page.tags if tag in ("link", "iframe", "form") or any(k.startswith("on") for k in a)]


def test_a_signed_record_that_decided_is_named_as_the_reason_in_every_format():
    row = verdict(score=0.1, probability=0.1, evidence=(SAID,))
    for shown in (words.explanation(row), "".join(render([row])), to_markdown([row])):
        assert "signed record" in shown and "Valid record of X" in shown and "The model finds" not in shown
    assert words.number_in_short(row) == "decided by its signed record"
    assert "signed record" in index_of([row])
    assert words.deciding(verdict(decision="authentic", evidence=(SAID,))) is None


def test_evidence_that_points_the_other_way_is_said_to():
    assert words.disagrees(verdict(decision="fake"), CAMERA)
    assert words.disagrees(verdict(decision="authentic"), SAID) and not words.disagrees(verdict(decision="fake"), SAID)


def test_rows_of_a_file_come_back_into_the_report(tmp_path):
    rows = [verdict(evidence=(SAID, CAMERA)), clip(), Failure("x", "broken", 3)]
    (tmp_path / "r.jsonl").write_bytes(b"".join(encode_row(row.to_dict()) for row in rows))
    assert list(load_rows(tmp_path / "r.jsonl")) == rows
