"""Claims about the page, in a real Chromium: what a person sees, with mouse, keyboard, phone and screen reader.

Needs Chromium at /usr/bin/chromium (scripts/run_tests.sh installs it where it may). Screenshots go to output/page.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from server_fixtures import SAMPLES, Gate, live, nano

from internvl_detect.detect.detector import Detector
from internvl_detect.model.calibration import Calibration
from internvl_detect.serve.tokens import Tokens

CHROMIUM = Path("/usr/bin/chromium")
SHOTS = Path(__file__).parents[1] / "output" / "page"
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium: apt-get install chromium")
# Spreads the nano model's narrow scores, so that the samples get all three verdicts and marked parts.
SPREAD = Calibration("platt", 14.0, -15.3, 0.4, 0.6, 10, 10, 0.05, "the tests of the page")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    gate = Gate()
    gate.detector = Detector(nano().loaded, calibration=SPREAD)
    with live(tmp_path_factory.mktemp("page") / "data", gate, rate_per_min=100_000) as client:
        yield client


@pytest.fixture
def open_page(browser):
    """``open_page(server)`` gives a page; any script error or policy violation on it fails the test."""
    problems, contexts = [], []

    def make(server, path="/", **options):
        options = {"viewport": {"width": 1180, "height": 900}, "locale": "en-GB", **options}
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if "Content Security Policy" in m.text else None)
        page.goto(f"http://127.0.0.1:{server.port}{path}")
        page.locator("html[data-ready=yes]").wait_for()
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []


def shoot(page, name):
    page.wait_for_timeout(300)
    page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)


def send(page, *names):
    page.set_input_files("#files", [str(SAMPLES / name) for name in names])


def until(page, met):
    """Waits until ``met()``. Not ``wait_for_function``: the page's policy allows no evaluated text."""
    for _ in range(200):
        if met():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come")


def loaded(page, selector):
    picture = page.locator(selector).first
    until(page, lambda: picture.evaluate("node => node.naturalWidth > 0"))


def test_a_picture_gets_its_verdict_in_words_first_and_the_number_on_demand(server, open_page):
    page = open_page(server)
    shoot(page, "start")
    send(page, "astronaut.jpg")
    card = page.locator("article.card")
    card.wait_for()
    assert re.match("Likely", card.locator("h2").inner_text())
    assert page.evaluate("document.activeElement.tagName") == "H2"  # a screen reader goes on from the verdict
    assert not card.get_by_text("Raw score of the model").is_visible()
    card.get_by_text("The number behind it").click()
    assert card.get_by_text("Raw score of the model").is_visible()
    loaded(page, ".overlay")
    shoot(page, "verdict")
    send(page, "camera.jpg")
    page.get_by_role("heading", name="No sign of AI").wait_for()
    assert "does not prove" in page.locator("article.card").inner_text()
    assert "Contradiction" in page.locator("article.card").inner_text()  # nano says "Yes" beside it: shown, not hidden
    send(page, "chelsea.jpg")
    page.get_by_role("heading", name="Can't tell").wait_for()
    assert "A guess: nothing was decided." in page.locator("article.card").inner_text()


def test_marked_parts_can_be_compared_and_the_picture_zoomed_by_keyboard(server, open_page):
    page = open_page(server)
    send(page, "astronaut.jpg")
    loaded(page, ".overlay")
    top = page.locator(".overlay")
    clip = lambda: top.evaluate("node => node.style.clipPath")  # noqa: E731
    assert "inset(0px 0%" in clip() or "inset(0px)" in clip()
    page.get_by_role("button", name="Compare").click()
    assert "50%" in clip()
    shoot(page, "compare")
    page.locator(".compare").focus()
    page.keyboard.press("ArrowLeft")
    assert "51%" in clip()
    page.get_by_role("button", name="As sent").click()
    assert "100%" in clip()
    page.locator(".stage").focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    transform = page.locator(".layers").evaluate("node => node.style.transform")
    assert float(re.search(r"scale\(([\d.]+)\)", transform)[1]) == pytest.approx(1.96, abs=0.01)
    page.keyboard.press("Escape")
    assert "scale(1)" in page.locator(".layers").evaluate("node => node.style.transform")


def test_a_clip_has_a_timeline_to_click_and_to_scrub(server, open_page):
    page = open_page(server)
    send(page, "clip.mp4")
    loaded(page, ".stage img")
    says = page.locator(".frameSays")
    slider = page.locator(".scrub")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    first, shown = says.inner_text(), page.locator(".stage img").get_attribute("src")
    assert first.startswith("0:00")
    page.keyboard.press("ArrowRight")
    assert says.inner_text() != first
    assert slider.get_attribute("aria-valuetext") == says.inner_text()
    box = page.locator(".dots").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 4, box["y"] + 20)
    assert says.inner_text().startswith("0:03")
    assert page.locator(".stage img").get_attribute("src") != shown
    assert page.locator(".dot.now").count() == 1
    shoot(page, "clip")


def test_several_files_are_a_list_the_worst_first_and_each_opens(server, open_page):
    page = open_page(server)
    send(page, "camera.jpg", "CREDITS.md", "astronaut.jpg", "chelsea.jpg")
    rows = page.locator(".list button")
    rows.nth(3).wait_for()
    names = [row.locator(".name").inner_text() for row in rows.all()]
    assert names == ["astronaut.jpg", "chelsea.jpg", "CREDITS.md", "camera.jpg"]
    loaded(page, ".list img")
    shoot(page, "batch")
    rows.nth(2).focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Could not be judged").wait_for()
    page.get_by_text("Back to the list").click()
    assert page.locator(".list button").count() == 4


def test_the_link_shows_the_same_again_and_report_and_json_can_be_taken_along(server, open_page):
    page = open_page(server)
    send(page, "chelsea.jpg")
    page.locator("article.card").wait_for()
    link = page.evaluate("location.hash")
    other = open_page(server, f"/{link}")
    other.get_by_role("heading", name="Can't tell").wait_for()
    for kind, start in (("html", b"<!DOCTYPE html>"), ("json", b"{"), ("md", b"# Detection report")):
        with other.expect_download() as download:
            other.locator(f"[data-get={kind}]").click()
        assert Path(download.value.path()).read_bytes().startswith(start)
        assert download.value.suggested_filename == f"chelsea.jpg.{kind}"
    assert "chelsea.jpg" in other.locator("#history").inner_text()
    other.get_by_role("button", name="Delete from the server").click()
    other.get_by_text("Deleted from the server.").wait_for()
    page.reload()
    page.get_by_text("There is no such result here").wait_for()


def test_errors_are_said_in_words_and_can_be_tried_again(server, open_page, tmp_path):
    page = open_page(server)
    send(page, "CREDITS.md")
    page.get_by_role("heading", name="Could not be judged").wait_for()
    assert "is text" in page.locator(".reason").inner_text()
    shoot(page, "error")
    page.route("**/v1/jobs?*", lambda route: route.abort())
    send(page, "chelsea.jpg")
    alert = page.get_by_role("alert")
    alert.get_by_text("The server cannot be reached").wait_for()
    shoot(page, "unreachable")
    page.unroute("**/v1/jobs?*")
    alert.get_by_role("button", name="Try again").click()
    page.get_by_role("heading", name="Can't tell").wait_for()
    assert alert.inner_text() == ""


def test_progress_names_its_stages_and_can_be_stopped(open_page, tmp_path):
    gate = Gate()
    with live(tmp_path / "data", gate) as client:
        page = open_page(client)
        send(page, "chelsea.jpg")
        page.get_by_role("status").filter(has_text="The model is looking").wait_for()
        assert page.locator("#stages li[aria-current=step]").inner_text() == "Judge"
        shoot(page, "progress")
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        page.locator("#progress").wait_for(state="hidden")
        gate.open.set()
        send(page, "coffee.jpg")
        page.locator("article.card").wait_for()


def test_a_token_is_asked_for_and_then_the_files_go(open_page, tmp_path):
    token = Tokens(tmp_path / "data").create("page")
    with live(tmp_path / "data") as client:
        page = open_page(client)
        send(page, "chelsea.jpg")
        page.get_by_role("heading", name="This server asks for a token").wait_for()
        shoot(page, "token")
        page.locator("#token").fill(token)
        page.keyboard.press("Enter")
        page.locator("article.card").wait_for()
        loaded(page, ".layers img")
        assert token not in page.content() and token not in page.url


def test_dropped_and_pasted_files_are_taken(server, open_page):
    page = open_page(server)
    give = """async (kind) => {
        const blob = await (await fetch('/static/icon.svg')).blob();
        const data = new DataTransfer();
        data.items.add(new File([blob], kind + '.png', {type: 'image/png'}));
        const event = kind === 'drop' ? new DragEvent('drop', {dataTransfer: data, bubbles: true})
                                      : new ClipboardEvent('paste', {clipboardData: data, bubbles: true});
        document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, kind)
        page.locator("article.card .filename", has_text=f"{kind}.png").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_chinese_in_both_schemes(server, open_page, scheme):
    phone = {"width": 375, "height": 760}
    page = open_page(server, viewport=phone, color_scheme=scheme, locale="zh-CN", has_touch=True)
    assert page.evaluate("document.documentElement.lang") == "zh"
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    for name, said in (("clip.mp4", ""), ("astronaut.jpg", "很可能")):
        send(page, name)
        page.locator("article.card .filename", has_text=name).wait_for()
        heading = page.locator("article.card h2").inner_text()
        assert said in heading and re.search("[\u4e00-\u9fff]", heading)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        shoot(page, f"phone-{scheme}-{name.split('.')[0]}")
    page.select_option("#language", "en")
    assert page.locator("article.card h2").inner_text().startswith("Likely")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    shoot(page, f"phone-{scheme}-english")


def test_both_languages_say_the_same_things_and_every_control_has_a_name(server, open_page):
    page = open_page(server)
    keys = page.evaluate("import('/static/words.js').then(m => Object.values(m.WORDS).map(w => Object.keys(w).sort()))")
    assert keys[0] == keys[1]
    used = set()
    for file in (Path(__file__).parents[1] / "internvl_detect" / "serve" / "page").glob("*.*"):
        used |= set(re.findall(r"""(?:say\(["']|data-say=["'])([\w]+)["']""", file.read_text("utf-8")))
    assert used <= set(keys[0])
    send(page, "astronaut.jpg")
    page.locator("article.card").wait_for()
    nameless = """() => [...document.querySelectorAll('button, input:not([hidden]), select, summary')].filter(node =>
        !(node.textContent.trim() || node.ariaLabel || node.labels?.length)).map(node => node.outerHTML)"""
    assert page.evaluate(nameless) == []
    for role in ("main", "banner", "contentinfo"):
        assert page.get_by_role(role).count() == 1
