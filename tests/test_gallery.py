"""Galleries and curves: the surest mistakes of each kind and no more, and pictures of figures that cannot act.

Run: ``python -m pytest tests/test_gallery.py``
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_detect.errors import ConfigError
from internvl_detect.evaluate.faithfulness import Faithfulness
from internvl_detect.evaluate.gallery import FACTS, WORDS, mistakes
from internvl_detect.evaluate.robustness import Point
from internvl_detect.report.curves import MOST_SYSTEMS, curves_svg, faithfulness_html

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 100), st.integers(0, 4)), max_size=30)


@given(ROWS, st.integers(1, 4))
def test_it_is_the_surest_mistakes_one_of_a_source_whatever_the_order(drawn, most):
    rows = [
        {"image": str(i), "label": "fake" if fake else "real", "score": s / 100, "group_id": f"g{g}"}
        for i, (fake, s, g) in enumerate(drawn)
    ]
    best: dict[tuple[bool, str], float] = {}
    for row in rows:
        fake, said = row["label"] == "fake", row["score"] >= 0.5
        if fake != said:
            key = (fake, row["group_id"])
            best[key] = max(best.get(key, 0.0), abs(row["score"] - 0.5) * 2)
    for order in (rows, rows[::-1]):
        found = mistakes(order, most=most)
        for fake, kind in ((False, "false alarm"), (True, "missed")):
            want = sorted((v for (f, _), v in best.items() if f == fake), reverse=True)[:most]
            assert [m.sureness for m in found if m.kind == kind] == pytest.approx(want)


def test_decisions_count_before_scores_and_rows_that_say_nothing_are_left_out():
    rows = [
        {"image": "a", "label": "real", "score": 0.9, "decision": "unsure"},
        {"image": "b", "label": "real", "score": 0.4, "decision": "fake", "outputs": "x" * 900, "mask": "m.png"},
        {"image": "c", "label": 1, "score": 0.1, "facts": {str(i): i for i in range(50)}},
        {"image": "d", "label": "fake", "score": None, "error": "broken"},
        {"image": "e", "label": "", "score": 0.9},
        {"image": "f", "label": "tampered", "score": math.nan},
        SimpleNamespace(image="g", label="deepfake", score=0.2, outputs="No.", facts={"generator": "G"}),
    ]
    alarm, *missed = mistakes(rows)
    assert (alarm.image, alarm.kind, alarm.mask, len(alarm.words)) == ("b", "false alarm", "m.png", WORDS)
    assert [m.image for m in missed] == ["c", "g"] and len(missed[0].facts) == FACTS
    assert missed[1].to_dict()["facts"] == {"generator": "G"} and missed[1].decision == "authentic"
    for most, threshold in ((0, 0.5), (201, 0.5), (5, 1.0)):
        with pytest.raises(ConfigError):
            mistakes([], most=most, threshold=threshold)


def points(value: float) -> list[Point]:
    steps = [("none", ""), ("jpeg", "95"), ("jpeg", "60"), ("social", "messenger_twice")]
    return [Point(o, s, value, value - 0.1, value + 0.1, 9, 9, 0.2, 0.8) for o, s in steps]


def test_curves_have_a_panel_an_operation_and_a_point_a_severity():
    svg = curves_svg({"one": points(0.8), "two": [p.to_dict() for p in points(0.6)]})
    root = ElementTree.fromstring(svg)
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("g") == 2 and tags.count("circle") == 6 and tags.count("polygon") == 4
    assert "two: jpeg 60, AUC 0.600 (0.500 to 0.700)" in svg and ">messe…<" in svg
    assert curves_svg(points(0.8)).count("<circle") == 3
    assert curves_svg([]) == curves_svg({}) == curves_svg({"none": points(0.5)[:1]}) == ""


def test_a_step_without_an_auc_is_a_gap_and_more_systems_than_colours_are_counted():
    broken = [*points(0.8)[:2], Point("jpeg", "80", math.nan, math.nan, math.nan, 9, 0, 0.2, math.nan), points(0.8)[2]]
    svg = curves_svg(broken)
    assert svg.count("<polyline") == 2 and "nan" not in svg
    many = curves_svg({str(i): points(0.5) for i in range(MOST_SYSTEMS + 3)})
    assert "and 3 more systems" in many and many.count("<circle") == 3 * MOST_SYSTEMS


@given(st.text(max_size=30))
def test_no_name_acts_as_anything_but_text(name):
    hostile = f'</text><script>alert(1)</script>"{name}'
    point = {"operation": hostile, "severity": hostile, "auc": 0.7, "low": 0.6, "high": 0.8}
    report = {"cover_mean": 0.5, "n_cover": 3, "agreement": 0.9, "n": 4}
    for text in (curves_svg({hostile: [point]}), f"<p>{faithfulness_html({hostile: report})}</p>"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
        assert "script" not in tags


def test_faithfulness_is_told_with_intervals_and_counts_and_a_dash_for_nothing():
    nothing = (math.nan,) * 3
    told = Faithfulness(0.5, 0.4, 0.6, 12, *nothing, 0, 0.9, 0.8, 1.0, 20)
    for report in (told, told.to_dict()):
        html = faithfulness_html({"nano": report})
        assert "0.500 (0.400 to 0.600) <small>n = 12" in html and "<td>- <small>n = 0" in html
        assert "0.900 (0.800 to 1.000) <small>n = 20" in html
    assert faithfulness_html({}) == ""
