"""Claims about `ivdetect evaluate`: from files to rows to tables and a page, and what broken or hostile input does."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_cli import run
from test_report import NASTY, Page

from internvl_detect.evaluate.collect import System
from internvl_detect.evaluate.grade import Settings, grade
from internvl_detect.evaluate.predictions import Prediction
from internvl_detect.evaluate.table import in_short, tables_of, to_csv, to_latex, to_markdown
from internvl_detect.report.evaluation import render

QUICK = Settings(rounds=20)


def rows_of(n=40, shift=0.3, seed=0, dataset="D", **more):
    rng = np.random.default_rng(seed)
    for i in range(n):
        score = float(np.clip(rng.normal(0.5 + shift * (i % 2 - 0.5), 0.2), 0, 1))
        decision = "fake" if score > 0.7 else "authentic" if score < 0.3 else "unsure"
        yield Prediction(
            f"{i}.jpg", "fake" if i % 2 else "real", score, decision, dataset, f"g{i // 2}", **more
        )  # fmt: skip


def table_named(report, name):
    return next(table for table in tables_of(report) if table.name == name)


def page_of(report) -> str:
    tables = [
        {"name": t.name, "title": t.title, "note": t.note, "heads": t.heads(), "rows": t.rows}
        | {"texts": [["" if c is None else str(c) for c in row] for row in t.rows]}
        for t in tables_of(report)
    ]
    return "".join(render(report, tables))


@pytest.fixture
def data(photo, tmp_path):
    """A manifest of six pictures, of two sizes, one of them broken; two have masks."""
    lines = ["path,label,group_id,mask,generator"]
    for i in range(6):
        photo(f"pictures/{i}.png", (90 + 10 * (i % 2), 80), i)
        mask = ""
        if i in (1, 3):
            mask = f"{i}_mask.png"
            marked = np.zeros((80, 100), np.uint8)
            marked[20:60, 30:60] = 255
            Image.fromarray(marked).save(tmp_path / mask)
        lines.append(f"pictures/{i}.png,{'tampered' if i % 2 else 'real'},g{i},{mask},{'gen' if i % 2 else ''}")
    (tmp_path / "pictures" / "4.png").write_text("no picture")
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "test.csv"


def evaluate(*arguments):
    return run("evaluate", *arguments, "--rounds", 20)


def test_files_are_judged_graded_and_shown_and_a_second_call_judges_only_what_failed(data, tmp_path):
    out = tmp_path / "run"
    code, text, _ = evaluate("--data", data, "--out", out)
    assert code == 1 and "| nano" in text and "| always fake |" in text and "side 80 px" in text
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"pictures/{i}.png" for i in range(6)]
    assert ["error" in row for row in rows] == [i == 4 for i in range(6)]
    assert rows[0]["facts"]["side_px"] == 80 and rows[0]["facts"]["format"] == "PNG"
    report = json.loads((out / "evaluation.json").read_text())
    line = report["lines"][0]
    assert (line["n_real"], line["n_fake"], line["n_failed"]) == (2, 3, 1)
    assert {"detection.csv", "detection.tex", "tables.md"} <= {p.name for p in (out / "tables").iterdir()}
    shown = "Most confident mistakes" in (out / "evaluation.html").read_text()
    assert shown == any(report["mistakes"].values())
    before = (out / "predictions.jsonl").read_bytes()
    code, _, said = evaluate("--data", data, "--out", out)
    assert code == 1 and "5 of 6 files have a prediction" in said
    assert (out / "predictions.jsonl").read_bytes() == before
    code, _, said = evaluate("--data", data, "--out", out, "--no-equalise")
    assert code == 2 and "side_px" in said


def test_the_most_confident_mistakes_are_shown(data, tmp_path):
    said = tmp_path / "said.jsonl"
    said.write_text("".join(json.dumps({"image": f"pictures/{i}.png", "score": 0.99}) + "\n" for i in range(6)))
    code, _, _ = evaluate("--model", "none", "--data", data, "--out", tmp_path / "run", "--predictions", f"sure={said}")
    assert code in (0, 1)
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [row["kind"] for row in report["mistakes"]["sure"]], "authentic pictures are called fake"
    assert "Most confident mistakes" in (tmp_path / "run" / "evaluation.html").read_text()


def test_shards_give_the_same_bytes_as_one_run_and_a_run_against_itself_differs_by_nothing(data, tmp_path):
    one, parts = tmp_path / "one", tmp_path / "parts"
    evaluate("--data", data, "--out", one, "--no-equalise")
    for shard in ("2/2", "1/2"):
        assert evaluate("--data", data, "--out", parts, "--no-equalise", "--shard", shard)[0] == (
            1 if shard == "1/2" else 0
        )
        assert not (parts / "predictions.jsonl").exists()
    assert evaluate("--data", data, "--out", parts, "--no-equalise", "--against", one)[0] == 1
    assert (parts / "predictions.jsonl").read_bytes() == (one / "predictions.jsonl").read_bytes()
    (line,) = json.loads((parts / "evaluation.json").read_text())["differences"]
    assert line["n"] == 5 and line["figures"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_baselines_stand_in_the_same_table_and_their_masks_are_graded(data, tmp_path):
    code, _, said = evaluate("--model", "none", "--data", data, "--out", tmp_path / "run", "--baselines", "ela")
    assert code == 2 and "--fit" in said
    out = tmp_path / "run2"
    code, text, _ = evaluate("--model", "none", "--data", data, "--out", out, "--baselines", "always_fake,copy_move")
    assert code == 1 and "copy-move keypoints" in text
    report = json.loads((out / "evaluation.json").read_text())
    assert {line["system"] for line in report["localization"]} == {"copy-move keypoints"}
    assert {line["n"] for line in report["localization"] if line["over"] == "tampered"} == {2}
    assert evaluate("--model", "none", "--data", data, "--out", out, "--baselines", "nothing")[0] == 2


def test_a_baseline_is_not_mixed_of_two_fits_and_the_tagger_may_be_any_folder(data, photo, tmp_path):
    lines = ["path,label", *(f"{photo(f'fit/{i}.png', (90, 80), 50 + i).name},{i % 2}" for i in range(12))]
    for name in ("one.csv", "two.csv"):
        (tmp_path / "fit" / name).write_text("\n".join(lines) + "\n")
    out, shared = tmp_path / "run", ("--model", "none", "--data", data, "--baselines")
    assert evaluate(*shared, "always_real", "--out", out)[0] == 1
    code, text, _ = evaluate(*shared, "always_real,noise", "--fit", tmp_path / "fit" / "one.csv", "--out", out)
    assert code == 1 and "noise residual" in text
    code, _, said = evaluate(*shared, "noise", "--fit", tmp_path / "fit" / "two.csv", "--out", out)
    assert code == 2 and "fit" in said
    code, _, said = evaluate(*shared, "tagger", "--tagger", tmp_path / "no", "--out", tmp_path / "other")
    assert code == 4 and str(tmp_path / "no") in said.replace("\n", "")


def test_fakeshields_rows_and_masks_are_graded_by_a_manifest(data, tmp_path):
    answers = [
        {"image": f"/their/pictures/{i}.png", "outputs": "Yes, it was tampered." if i != 2 else "No."} for i in range(5)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    whole = np.zeros((80, 100), np.uint8)
    whole[20:60, 30:60] = 255
    Image.fromarray(whole).save(drawn / "1.png")
    Image.fromarray(whole[:40]).save(drawn / "3.png")  # does not fit
    out = tmp_path / "theirs"
    code, text, said = evaluate(
        *("--data", data, "--predictions", f"FakeShield={tmp_path / 'answers.jsonl'}", "--masks", drawn, "--out", out)
    )
    report = json.loads((out / "evaluation.json").read_text())
    (line,) = report["lines"]
    assert code == 1 and "FakeShield" in text and "1 files of" in text
    assert line["figures"]["fake_accuracy"]["value"] == 1 and line["figures"]["auc"]["value"] is None
    assert line["figures"]["real_accuracy"]["value"] == pytest.approx(1 / 3) and line["n_unscored"] == 5
    (error,) = report["errors"]
    assert error["image"] == "pictures/3.png" and "100x40 px, the true one 100x80" in error["error"]
    fixed = next(m for m in report["localization"] if (m["over"], m["rule"]) == ("tampered", "fixed"))
    assert fixed["n"] == 1 and fixed["pixel_iou"]["value"] == 1


def test_a_row_that_is_not_a_number_is_named_and_the_rest_is_graded(tmp_path):
    good = [json.dumps({"image": f"{i}.jpg", "label": i % 2, "score": i / 10}) for i in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*good, '{"image": "x.jpg", "label": 1, "score": NaN}']) + "\n")
    code, text, said = evaluate("--predictions", file)
    assert code == 1 and "rows.jsonl:5" in said and "1 rows of rows cannot be used" in text
    file.write_text('{"image": "x.jpg", "label": 1, "score": NaN}\n')
    assert evaluate("--predictions", file)[0] == 5


def test_questions_with_a_label_are_judged_and_ones_without_are_failed_rows(data, tmp_path):
    file = tmp_path / "questions.jsonl"
    rows = [{"image": f"pictures/{i}.png", "text": "Was it edited?", "label": i % 2} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"image": "pictures/5.png", "text": "?"}]))
    code, _, _ = evaluate("--data", file, "--out", tmp_path / "run", "--explain")
    got = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert code == 1 and [bool(row.get("outputs")) for row in got] == [True] * 4 + [False]
    assert "no label and no mask" in got[4]["error"]


def test_rows_and_masks_of_detect_are_graded_by_the_question_file_that_they_answer(data, tmp_path):
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "questions.jsonl"
    rows = [{"image": f"../pictures/{i}.png", "text": "", "label": i % 2} for i in (0, 1, 3)]
    file.write_text("".join(json.dumps(row | ({"mask": f"../{i}_mask.png"} if i else {})) + "\n"
                            for row, i in zip(rows, (0, 1, 3), strict=True)))  # fmt: skip
    answers, drawn = tmp_path / "answers.jsonl", tmp_path / "drawn"
    assert run("detect", "--questions", file, "--out", answers, "--masks", drawn, "--fakeshield")[0] == 0
    out = tmp_path / "graded"
    code, _, said = evaluate("--data", file, "--predictions", f"ours={answers}", "--masks", drawn, "--out", out)
    report = json.loads((out / "evaluation.json").read_text())
    assert code == 0 and report["lines"][0]["n_fake"] == 2 and not report["errors"], said
    assert {line["n"] for line in report["localization"] if line["over"] == "tampered"} == {2}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--data", "nowhere.csv", "--out", "OUT"), 5),
        (("--data", "DATA"), 2),
        (("--data", "DATA", "--out", "OUT", "--shard", "3/2"), 2),
        (("--data", "DATA", "--out", "OUT", "--split", "tset"), 2),
        (("--predictions", "nowhere.jsonl"), 5),
        (("--data", "ps|CASIA99", "--root", "HERE", "--out", "OUT"), 2),
        (("--data", "DATA", "--out", "OUT", "--masks", "HERE"), 2),
    ],
)
def test_what_makes_no_sense_is_told(data, tmp_path, arguments, code):
    places = {"DATA": data, "OUT": tmp_path / "out", "HERE": tmp_path}
    assert evaluate(*(places.get(word, word) for word in arguments))[0] == code


def test_the_published_table_is_shown_with_constant_answers():
    code, text, _ = run("evaluate", "--published")
    assert code == 0 and "| Columbia | *always tampered* (computed) | 1.00 | 1.00 |" in text
    cells = json.loads(run("evaluate", "--published", "--json")[1])
    assert sum(cell["published"] for cell in cells) == 49


def test_a_better_system_has_a_difference_above_zero_and_failed_rows_are_counted_by_dataset():
    worse = [*rows_of(shift=0.05), Prediction("broken.jpg", "fake", error="no", dataset="E")]
    report = grade([System("worse", worse), System("better", rows_of(shift=0.9, seed=1))], QUICK)
    auc = report["differences"][0]["figures"]["auc"]
    assert auc["low"] > 0 and report["differences"][0]["less"] == "worse"
    lines = {(line["system"], line["dataset"]): line for line in report["lines"]}
    assert lines["worse", "E"]["n_failed"] == 1 and lines["worse", "E"]["figures"]["auc"]["value"] is None
    assert lines["worse", "all"]["n_fake"] == 20


@given(st.permutations(range(30)))
def test_the_order_of_rows_changes_no_figure(order):
    rows = list(rows_of(30))
    plain, mixed = (grade([System("s", r)], QUICK)["lines"][0] for r in (rows, [rows[i] for i in order]))
    for name, told in plain["figures"].items():
        value = mixed["figures"][name]["value"]
        assert (value is None) == (told["value"] is None)
        assert value is None or math.isclose(value, told["value"], abs_tol=1e-12)


def test_published_figures_have_columns_of_their_own():
    table = table_named(grade([System("s", rows_of(dataset="IMD2020"))], QUICK), "detection")
    assert table.columns[-2:] == ("FakeShield ACC (published)", "FakeShield F1 (published)")
    assert table.rows[0][-2:] == (0.83, 0.9) and table.rows[1][0] == "always fake" and table.rows[1][-1] is None
    assert "system" in in_short(table).columns and "FakeShield F1 (published)" in in_short(table).columns
    assert "published" not in " ".join(table_named(grade([System("s", rows_of())], QUICK), "detection").columns)


def report_with(text):
    rows = [*rows_of(dataset=text, outputs=text, facts={"generator": text, "words": "edited"})]
    return grade([System(text, [*rows, Prediction(text, "fake", error=text)])], QUICK)


@pytest.mark.parametrize("text", NASTY)
def test_no_text_of_a_stranger_changes_a_table_or_the_page(text):
    report = report_with(text)
    table = table_named(report, "detection")
    markdown = to_markdown([table]).splitlines()
    assert len(markdown) == 6 + len(table.rows)
    assert all(re.sub(r"\\.", "", line).count("|") == len(table.columns) + 1 for line in markdown[6:])
    assert len(to_latex(table).splitlines()) == 6 + len(table.rows)
    parsed = list(csv.reader(io.StringIO(to_csv(table))))
    assert {len(row) for row in parsed} == {len(parsed[0])} and len(parsed) == 1 + len(table.rows)
    assert Page(page_of(report)).skeleton == Page(page_of(report_with("harmless"))).skeleton


def test_a_cell_that_a_spreadsheet_would_run_is_text():
    table = table_named(report_with("=HYPERLINK(1)"), "detection")
    assert "'=HYPERLINK(1)" in to_csv(table) and "\n=HYPERLINK" not in to_csv(table)


def test_the_only_script_of_the_page_is_ours_by_its_hash_and_nothing_is_loaded():
    source = page_of(report_with("s"))
    scripts = re.findall(r"<script>(.*?)</script>", source, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    page = Page(source)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert len(scripts) == 1 and f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none'")
    assert not [1 for tag, a in page.tags if tag in ("link", "iframe", "form") or any(k.startswith("on") for k in a)]
    assert sum(tag == "svg" for tag, _ in page.tags) == 3  # ROC, PR, reliability
