"""Claims about ``ivdetect detect`` with a server: rows, codes and resuming as without, and options that do not fit."""

from __future__ import annotations

import json
import threading

import pytest
from openai_stand_in import OpenAIStandIn
from plain_nano import plain_adapter
from stand_in import reply, serving

from internvl_detect import http_calls
from internvl_detect.cli import app
from internvl_detect.detect import Detector, engines
from internvl_detect.detect.results_file import load_rows
from internvl_detect.errors import ConfigError, IvdetectError, ServerError
from internvl_detect.verdict import Verdict


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr(http_calls, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def detector(tiny_folder):
    return Detector.from_pretrained(tiny_folder)


class Ours:
    """A route that answers as a server of this program does."""

    def __init__(self, detector):
        self.detector, self.lock = detector, threading.Lock()

    def __call__(self, request):
        if request.path == "/readyz":
            return reply({"ready": True})
        if request.headers.get("authorization") != "Bearer right":
            return reply({"error": {"code": "token", "message": "no such token"}}, 401)
        try:
            with self.lock:
                options = {"explain": "explain" in request.query, "regions": "mask" in request.query}
                row = self.detector.detect(request.body, frames=int(request.query["frames"]), **options)
        except IvdetectError as error:
            return reply({"error": {"code": "media", "message": error.found}}, 415)
        return reply({"results": [row.to_dict() | {"path": request.query["name"], "name": request.query["name"]}]})


def run(*arguments):
    """Exit code of the command line."""
    try:
        return app([*map(str, arguments)], standalone_mode=False) or 0
    except IvdetectError as error:
        return error.exit_code


def test_a_server_of_ours_gives_the_local_rows_and_a_second_run_asks_for_what_is_left(
    detector, photo, clip, tmp_path, monkeypatch
):
    paths = [photo("in/a.png", seed=1), clip(), photo("in/c.png", seed=3)]
    (tmp_path / "in" / "b.jpg").write_text("no picture")
    out = tmp_path / "rows.jsonl"
    files = [*map(str, paths), str(tmp_path / "in" / "b.jpg")]
    monkeypatch.setenv("MY_TOKEN", "right\n")
    with serving(Ours(detector)) as server:
        with_it = ["--server", server.url, "--token-env", "MY_TOKEN", "--out", out, "--frames", 3, "--explain"]
        assert run("detect", *files, *with_it) == 1
        rows = {row.path: row for row in load_rows(out)}
        asked = len(server.asked)
        assert run("detect", *files, *with_it, "--resume") == 1
        assert len(server.asked) == asked + 2  # readiness, and the broken file once more
    assert list(rows) == files and rows[files[3]].exit_code == 3
    for path, theirs in rows.items():
        if isinstance(theirs, Verdict):
            ours = detector.detect(path, frames=3, explain=True)
            assert (theirs.score, theirs.words, theirs.frames) == (ours.score, ours.words, ours.frames)


def test_a_wrong_token_and_a_server_that_fails_always_end_the_run(detector, photo, monkeypatch):
    paths = [photo(f"in/{i}.png", size=(30, 20), seed=i) for i in range(60)]
    monkeypatch.setenv("MY_TOKEN", "wrong")
    with serving(Ours(detector)) as server:
        assert (
            run("detect", paths[0].parent, "--server", server.url, "--token-env", "MY_TOKEN") == ConfigError.exit_code
        )
        assert len(server.asked) < 60
    with serving(lambda r: reply({}, 200 if r.path == "/readyz" else 500)) as server:
        assert run("detect", paths[0].parent, "--server", server.url) == ServerError.exit_code
        assert len(server.asked) <= 1 + engines.GONE + 2 * engines.IN_FLIGHT
    assert run("detect", paths[0], "--server", server.url) == ServerError.exit_code


def test_a_server_of_others_is_asked_from_the_command_line(tmp_path, photo, capfd):
    from internvl_detect.model.adapter import merge
    from internvl_detect.model.checkpoint import load_base

    adapter = plain_adapter(tmp_path / "adapter")
    folder = merge("nano", adapter, tmp_path / "nano")
    path = photo("a.png", (300, 200))
    with serving(OpenAIStandIn(load_base(folder))) as server:
        options = ["--backend", "openai", "--url", f"{server.url}/v1", "--json"]
        assert run("detect", path, *options, "--model", folder, "--served-model", "the-model") == 0
        whole = json.loads(capfd.readouterr().out)
        assert run("detect", path, *options, "--adapter", adapter) == 0
        said = capfd.readouterr()
    assert whole["model"] == "the-model" and whole["calibrated"]
    assert whole["score"] == pytest.approx(Detector.from_pretrained(folder).detect(path).score, abs=1e-5)
    assert json.loads(said.out)["score"] == pytest.approx(whole["score"], abs=1e-3)
    assert "prompts are not checked" in said.err


@pytest.mark.parametrize(
    "options",
    [("--backend", "openai"), ("--url", "http://a/v1"), ("--backend", "vllm"), ("--engine", "spark")]
    + [("--engine", "ray", "--server", "http://a"), ("--server", "http://a", "--adapter", "x")]
    + [("--server", "http://a", "--token-env", "NOT_SET_ANYWHERE"), ("--server", "a")],
)
def test_options_that_do_not_fit_are_said_before_anything_happens(options, photo):
    assert run("detect", photo(), *options) == ConfigError.exit_code
