"""What the reports promise: honest words, and strangers' text that stays text in every format."""

from __future__ import annotations

import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console

from internvl_detect.errors import OutputError
from internvl_detect.explanations import Basis, Reasons, Where
from internvl_detect.report import words
from internvl_detect.report.html import render, thumbnail, write_report
from internvl_detect.report.markdown import escape, to_markdown
from internvl_detect.report.overlay import layer_of, without_masks
from internvl_detect.report.terminal import print_rows
from internvl_detect.verdict import Evidence, Failure, Frame, Region, Stretch, Verdict

ABOUT = "embedded nano model: for trying things out"
NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></svg><svg onload=alert(1)>",
    "--><iframe src=//x></iframe><!--",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;#x3c;",
    "javascript:alert(1) https://x.org www.x.org a@x.org",
    "![a](http://x/y.png) [b](http://x) `c` **d** | e | ~~f~~ <http://x>",
    "[bold red]x[/] \x1b[2J\x1b]0;title\x07 \u202egpj.exe\r\noverwritten",
    "broken \udcff\ud800 name",
]
texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=60), st.text("<>\"'&/= onscript[]`*_|\\!#", max_size=40))
strangers = texts.filter(lambda text: not words.model_notes(verdict(notes=(text,))))  # such a note has another place
HEADLINES = {"Likely AI-generated", "Likely edited (tampered)", "Likely a deepfake", "Likely fake", "Can't tell"}


def verdict(**changes: object) -> Verdict:
    made: dict = {"path": "in/a.jpg", "kind": "image", "model": "nano", "timings": {"model": 0.1}, "calibrated": True}
    made |= {"score": 0.9, "probability": 0.93, "decision": "fake", "label": "ai_generated"}
    return Verdict(**(made | changes))


def clip(**changes: object) -> Verdict:
    frames = tuple(Frame(i * 25, float(i), 0.1 + 0.2 * i) for i in range(5))
    return verdict(path="in/c.mp4", kind="video", frames=frames, stretch=Stretch(3.0, 4.0, 0.8), **changes)


def full_of(text: str, *, kind: str = "image") -> list[Verdict | Failure]:
    """Rows in which every text that a stranger can reach is ``text``, with a fixed beginning so that none is empty."""
    said = f"w{text}"
    evidence = (Evidence(said, said, 0.1, {said: said, "nested": [said, {said: 1}]}),)
    row = verdict(
        path=f"in/{said}.jpg",
        kind=kind,
        words=said,
        model=said,
        sha256=said,
        notes=(f"model {said}", said),
        timings={said: 1.0},
        evidence=evidence,
        regions=(Region((1, 2, 30, 40), 0.8, 900, said),),
        reasons=Reasons(True, Where(said, said), (Basis(said, said),), (said,)),
        domain_tag=said,
        tag_probabilities={said: 0.7, "authentic": 0.3},
        mask_share=0.25,
        width=100,
        height=50,
    )
    return [row, clip(words=said, notes=(said,)), Failure(f"in/{said}", said, 3)]


class Page(HTMLParser):
    """Every tag with its attributes in order, all text, and what lies in the style sheet."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def skeleton(self) -> list[tuple[str, list[str]]]:
        return [(tag, list(attributes)) for tag, attributes in self.tags]


def jpeg(width: int = 60, height: int = 40) -> bytes:
    return thumbnail(Image.new("RGB", (width, height), (90, 120, 40)))


def page_of(rows: list[Verdict | Failure], **options: object) -> str:
    return "".join(render(rows, **options))  # type: ignore[arg-type]


def printed(rows: list[Verdict | Failure], *, verbose: bool = True, **options: object) -> str:
    out = io.StringIO()
    print_rows(rows, Console(file=out, **({"width": 100} | options)), verbose=verbose)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("label", ["real", "ai_generated", "tampered", "deepfake", "new kind"])
@pytest.mark.parametrize("decision", ["fake", "unsure", "authentic", "new decision"])
def test_no_verdict_ever_says_that_a_file_is_real(decision: str, label: str) -> None:
    row = verdict(decision=decision, label=label)
    said = f"{words.headline(row)}. {words.explanation(row)}"
    said = said.replace("does not prove that this picture is real", "")
    assert not re.search(r"\b(is|are|looks?|likely) (real|authentic|genuine)\b", said)
    assert words.headline(row) in HEADLINES | {"No sign of manipulation found"}


def test_finding_nothing_is_said_to_prove_nothing() -> None:
    assert "does not prove" in words.explanation(verdict(decision="authentic", label="real"))


@given(st.floats(0, 1))
def test_a_percentage_never_claims_certainty(share: float) -> None:
    assert words.percent(share) not in ("0%", "100%")


def test_an_uncalibrated_number_is_called_so_in_every_format() -> None:
    rows = [verdict(calibrated=False)]
    for shown in (page_of(rows), to_markdown(rows), printed(rows, verbose=False)):
        assert re.search("not calibrated", shown, re.IGNORECASE)
    assert "not calibrated" not in page_of([verdict()]).lower()


def test_the_note_about_the_model_stands_before_the_first_verdict() -> None:
    rows = [verdict(notes=(ABOUT,)), verdict(path="b", notes=(ABOUT, "CMYK converted"))]
    page, text = page_of(rows), to_markdown(rows)
    assert page.index(ABOUT) < page.index("Likely AI-generated")
    assert text.index("embedded nano model") < text.index("Likely AI-generated")
    assert page.count(ABOUT) == 1
    assert printed(rows, verbose=False).count(ABOUT) == 1


def test_a_note_about_the_model_of_one_file_stays_with_that_file() -> None:
    page = page_of([verdict(), verdict(path="b", notes=(ABOUT,))])
    assert page.index(ABOUT) > page.index('aria-label="Likely AI-generated: b"')


@settings(max_examples=60, deadline=None)
@given(strangers)
def test_no_text_of_a_stranger_changes_the_structure_of_the_page(text: str) -> None:
    hostile, plain = (
        Page(page_of(rows, title=f"w{t}", thumbnails={rows[0].path: jpeg()}, made_with={f"w{t}": {f"w{t}": f"w{t}"}}))
        for t, rows in ((t, full_of(t)) for t in (text, "harmless"))
    )
    assert hostile.skeleton == plain.skeleton


@settings(max_examples=60, deadline=None)
@given(strangers)
def test_the_page_has_no_script_no_handler_and_no_outside_address(text: str) -> None:
    rows = full_of(text)
    source = page_of(rows, title=text, thumbnails={rows[0].path: jpeg()}, made_with={"base": text})
    page = Page(source)
    for tag, attributes in page.tags:
        assert tag not in {
            "script",
            "iframe",
            "object",
            "embed",
            "link",
            "base",
            "form",
            "a",
            "image",
            "use",
            "template",
        }
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "xlink:href", "srcdoc")]
        if "src" in attributes:
            assert re.fullmatch(r"data:image/(jpeg|png);base64,[A-Za-z0-9+/=]+", attributes["src"] or "")
        assert "url(" not in (attributes.get("style") or "")
    policies = [a for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and (policies[0]["content"] or "").startswith("default-src 'none'; img-src data:;")
    assert words.visible(f"w{text}") in page.text
    source.encode("utf-8")


def _spoken(text: str) -> str:
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parseInline(text)
    kinds = {child.type for token in tokens for child in token.children or []}
    assert kinds <= {"text", "text_special"}, kinds
    return "".join(child.content for token in tokens for child in token.children or [])


@settings(max_examples=150, deadline=None)
@given(strangers)
def test_escaped_markdown_reads_as_exactly_the_visible_text(text: str) -> None:
    assert _spoken(escape(text)).strip() == words.visible(text).strip()


@settings(max_examples=40, deadline=None)
@given(strangers)
def test_no_text_of_a_stranger_changes_the_structure_of_the_markdown(text: str) -> None:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def blocks(said: str) -> list[str]:
        return [
            token.type for token in parser.parse(to_markdown(full_of(said), title=said, made_with={"base": f"w{said}"}))
        ]

    assert blocks(text) == blocks("harmless")


def test_the_marks_of_bare_addresses_are_escaped_in_markdown() -> None:
    assert escape("https://x.org www.x.org a@x.org") == r"https\://x.org www\.x.org a\@x.org"


@settings(max_examples=60, deadline=None)
@given(strangers)
def test_the_terminal_shows_text_and_obeys_none_of_it(text: str) -> None:
    shown = printed(full_of(text))
    assert not [c for c in shown if words._hides(c) and c != "\n"]
    assert words.visible(f"in/w{text}.jpg", 4000) in shown
    lines = printed(full_of("harmless")).count("\n")
    assert shown.count("\n") == lines


def test_a_terminal_without_unicode_still_gets_every_row() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_rows([verdict(path="in/画.jpg"), clip(), Failure("x", "no ü", 3)], Console(file=out), verbose=True)
    out.flush()
    shown = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "\\u753b.jpg" in shown and "no \\xfc" in shown


def test_one_file_is_one_line_and_a_clip_says_where() -> None:
    shown = printed([clip()], verbose=False).splitlines()
    assert len(shown) == 1 and "Likely AI-generated" in shown[0] and "0:03.0 to 0:04.0" in shown[0]


def test_a_narrow_terminal_keeps_the_end_of_the_name_and_a_pipe_keeps_all() -> None:
    row = verdict(path="folder/" * 30 + "照片.jpg")
    narrow = printed([row], verbose=False, force_terminal=True, no_color=True, width=80)
    assert "照片.jpg" in narrow and row.path not in narrow
    assert row.path in printed([row], verbose=False, width=80)


def test_totals_count_every_outcome_and_failures_say_what_to_do() -> None:
    rows = [verdict(), verdict(decision="unsure"), verdict(decision="authentic"), Failure("x", "broken. Do this.", 3)]
    shown = printed(rows, verbose=False)
    assert "4 files: 1 likely fake, 1 can't tell, 1 no sign found, 1 not judged" in shown
    for text in (shown, page_of(rows), to_markdown(rows)):
        assert "Do this." in text and "Could not be judged" in text


def test_marked_regions_are_drawn_in_the_pictures_own_pixels() -> None:
    row = verdict(regions=(Region((10, 20, 110, 70), 0.8),), width=400, height=200)
    page = Page(page_of([row], thumbnails={row.path: jpeg()}))
    rects = [a for t, a in page.tags if t == "rect"]
    assert rects and all((a["x"], a["y"], a["width"], a["height"]) == ("10", "20", "100", "50") for a in rects)
    assert [a for t, a in page.tags if t == "svg" and a.get("viewbox") == "0 0 400 200"]


def test_a_clip_has_a_point_for_each_frame_and_its_stretch_shaded() -> None:
    row = clip()
    page = Page(page_of([row], thumbnails={row.path: [jpeg() for _ in row.frames]}))
    assert len([a for t, a in page.tags if t == "path" and a.get("class") == "dot"]) == len(row.frames)
    shade = next(a for t, a in page.tags if t == "rect" and a.get("class") == "shade")
    assert (shade["x"], shade["width"]) == ("75.0", "25.0")
    assert len([1 for t, _ in page.tags if t == "img"]) == 1 + len(row.frames)
    assert len([1 for t, a in page.tags if t == "figure" and a.get("class") == "hot"]) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -3.0, 1e300])
def test_numbers_that_make_no_sense_do_not_break_a_report(bad: float) -> None:
    frames = (Frame(0, bad, 0.5), Frame(1, 1.0, bad), Frame(2, 2.0, 0.5))
    row = clip(score=bad, probability=bad, evidence=(Evidence("a", "b", bad),), timings={"x": bad})
    row = Verdict(**(vars(row) | {"frames": frames, "stretch": Stretch(bad, bad, bad)}))
    for shown in (page_of([row], made_with={"thresholds": (bad, bad)}), to_markdown([row]), printed([row])):
        assert "Likely AI-generated" in shown
    positions = re.findall(r'(?:points|x|width)="([-\d., einfa]+)"', page_of([row]))
    assert all(0 <= float(v) <= 100 for p in positions for v in re.split("[ ,]", p) if v)


def test_thresholds_of_the_calibration_are_shown_with_the_number() -> None:
    stored = {"method": "platt", "low": 0.21, "high": 0.83, "n_real": 50, "n_fake": 60, "fitted_on": "val"}
    page = Page(page_of([verdict()], made_with={"calibration": stored}))
    assert "no sign below 0.21, likely fake above 0.83" in page.text
    assert "fitted on 50 real and 60 fake files of val" in page.text


def test_a_thumbnail_is_a_small_jpeg_without_metadata() -> None:
    picture = Image.effect_noise((1600, 1000), 40).convert("RGBA")
    picture.info["exif"] = b"Exif\x00\x00secret"
    made = Image.open(io.BytesIO(thumbnail(picture)))
    assert (made.format, made.size, made.mode) == ("JPEG", (480, 300), "RGB")
    assert not made.getexif() and Image.open(io.BytesIO(jpeg(20, 10))).size == (20, 10)
    assert Image.open(io.BytesIO(thumbnail(Image.new("L", (9000, 3))))).size == (480, 1)


def test_bytes_that_are_no_picture_are_not_embedded() -> None:
    page = Page(page_of([verdict()], thumbnails={"in/a.jpg": b"<svg onload=alert(1)>"}))
    assert not [1 for tag, _ in page.tags if tag == "img"]


def test_an_empty_list_of_rows_is_a_report_too() -> None:
    assert "0 files" in page_of([]) and "0 files" in to_markdown([]) and printed([]) == ""


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    target = write_report([verdict()], tmp_path / "new" / "report.html")
    before = target.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_report([verdict(), _Breaking()], target)  # type: ignore[list-item]
    assert target.read_bytes() == before and [p.name for p in target.parent.iterdir()] == ["report.html"]
    with pytest.raises(OutputError):
        write_report([verdict()], target / "inside.html")
    with pytest.raises(OutputError):
        write_report([verdict()], tmp_path / "new")


class _Breaking(Verdict):
    """A row that fails in the middle of the page."""

    def __init__(self) -> None:
        super().__init__(**(vars(verdict())))

    def __getattribute__(self, name: str) -> object:
        if name == "evidence":
            raise ZeroDivisionError
        return super().__getattribute__(name)


def test_every_format_says_the_first_look_the_reasons_and_what_contradicts() -> None:
    found = Reasons(True, Where("upper left", "There."), (Basis("edges", "A hard outline."),), ("They disagree here.",))
    seen = {"tag_probabilities": {"photoshop": 0.71, "authentic": 0.29}, "domain_tag": "photoshop"}
    row = verdict(
        words="Yes.", reasons=found, mask_share=0.125, regions=(Region((0, 0, 9, 9), 0.8, 80, "There."),), **seen
    )
    html = Page(page_of([row])).text
    for text in (html, to_markdown([row]), printed([row])):
        for wanted in ("photoshop 71%", "upper left", "A hard outline.", "They disagree here.", "12.5%", "80 pixels"):
            assert wanted in text
    assert "They disagree here." in printed([row], verbose=False)


@pytest.mark.parametrize(("decision", "manner"), [("unsure", "guess"), ("fake", "says")])
def test_words_of_an_undecided_file_are_called_a_guess(decision: str, manner: str) -> None:
    row = verdict(decision=decision, words="Yes. The picture was generated.")
    for text in (printed([row], verbose=False), to_markdown([row])):
        assert manner in next(line for line in text.splitlines() if "Yes" in line)
    assert ("The model's guess" in page_of([row])) is (manner == "guess")


def test_a_disagreement_of_the_parts_is_the_reason_for_an_unsure_verdict() -> None:
    apart = (Evidence("domain_tag", "a first look says: authentic", 0.02, {"disagrees": True}),)
    assert "disagree" in words.explanation(verdict(decision="unsure", evidence=apart))
    assert "thresholds" in words.explanation(verdict(decision="unsure"))


def test_a_mask_lies_over_its_picture_as_a_layer() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 5:25] = 200
    row = verdict(mask=mask, mask_threshold=0.5)
    layer = layer_of(row)
    alpha = np.asarray(Image.open(io.BytesIO(layer)).getchannel("A"))
    assert ((alpha > 0) == (mask > 0)).all()
    tags = Page(page_of([row], thumbnails={row.path: jpeg()}, layers={row.path: layer})).tags
    shown = [attributes for tag, attributes in tags if tag == "img"]
    assert [a.get("class") for a in shown] == [None, "layer"] and shown[1]["src"].startswith("data:image/png")
    assert without_masks(row).mask is None and layer_of(verdict()) is None
