"""Claims about judging by somebody else's server: the scores are those of the model at hand, or it is said why not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from openai_stand_in import OpenAIStandIn
from plain_nano import plain_adapter
from stand_in import reply, serving

from internvl_detect import http_calls
from internvl_detect.detect import Detector, openai_asker, top_logprobs
from internvl_detect.detect.served import open_served
from internvl_detect.detect.top_logprobs import TOP, Cut, first_token, listed_tokens
from internvl_detect.errors import ConfigError, ServerError
from internvl_detect.model.adapter import merge
from internvl_detect.model.checkpoint import load_base
from internvl_detect.verdict import Verdict

YES, NO = ("Yes", "yes", "YES", " Yes", " yes"), ("No", "no", "NO", " No", " no")


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr(http_calls, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """nano with its adapter in one folder, as it would be given to a server."""
    folder = tmp_path_factory.mktemp("served")
    return merge("nano", plain_adapter(folder / "adapter"), folder / "nano")


@pytest.fixture(scope="module")
def nano(merged):
    return load_base(merged)


@pytest.fixture(scope="module")
def server(nano):
    with serving(OpenAIStandIn(nano)) as running:
        yield running


@pytest.fixture
def files(photo, clip):
    return [photo("a.png", (500, 340), 1), photo("b.png", (150, 90), 2), clip(), photo("c.jpg", (230, 700), 3)]


def test_scores_and_words_are_those_of_the_model_at_hand(nano, merged, server, files):
    local = list(Detector(nano, word_tokens=8).detect_many(files, frames=3, explain=True, regions=True))
    options = {"model": merged, "word_tokens": 8}
    there = list(open_served(f"{server.url}/v1", **options).detect_many(files, frames=3, explain=True, regions=True))
    for ours, theirs in zip(local, there, strict=True):
        assert isinstance(ours, Verdict) and isinstance(theirs, Verdict), theirs
        assert theirs.score == pytest.approx(ours.score, abs=1e-5)
        assert theirs.probability == pytest.approx(ours.probability, abs=1e-5)
        assert (theirs.path, theirs.decision, theirs.words) == (ours.path, ours.decision, ours.words)
        assert [f.score for f in theirs.frames] == pytest.approx([f.score for f in ours.frames], abs=1e-5)
        assert theirs.regions == pytest.approx(ours.regions) or len(theirs.regions) == len(ours.regions)
        assert (theirs.sha256, theirs.width, theirs.calibrated) == (ours.sha256, ours.width, ours.calibrated)
        assert theirs.label in ("real", "fake") and (theirs.label == "real") == (ours.label == "real")
        assert not [n for n in theirs.notes if "tokens of a prompt" in n]


def test_a_picture_with_a_thumbnail_goes_as_it_is_and_a_whole_clip_in_one_prompt(tiny_folder, photo, clip, monkeypatch):
    for module in (top_logprobs, openai_asker):
        monkeypatch.setattr(module, "TOP", 909)  # random weights: yes and no are not among the likeliest twenty
    loaded = load_base(tiny_folder)
    assert loaded.settings.tiles.thumbnail and loaded.settings.clip_score == "prompt"
    paths = [photo("a.png", (200, 140), 4), photo("b.png", (56, 300), 5), clip()]
    local = list(Detector(loaded).detect_many(paths, frames=3))
    with serving(OpenAIStandIn(loaded)) as server:
        there = list(open_served(f"{server.url}/v1", model=tiny_folder).detect_many(paths, frames=3))
    for ours, theirs in zip(local, there, strict=True):
        assert isinstance(theirs, Verdict) and theirs.score == pytest.approx(ours.score, abs=1e-5)
        assert not [n for n in theirs.notes if "tokens of a prompt" in n]
    prompts = [r.json()["messages"][1]["content"] for r in server.asked if r.method == "POST"]
    clips = [p for p in prompts if sum(part["type"] == "image_url" for part in p) == 3]
    frames = [part for i in (1, 2, 3) for part in (f"Frame{i}: ", "picture")]
    assert [part.get("text", "picture") for part in clips[0]][:-1] == frames
    assert len(clips) == 1 and len(prompts) == 2 + 1 + 3


def test_a_server_that_lists_only_what_it_would_draw_is_asked_for_the_whole_distribution(nano, merged, photo):
    path = photo("a.png", (300, 200), 6)
    with serving(OpenAIStandIn(nano, style="lmdeploy")) as server:
        detector = open_served(f"{server.url}/v1", model=merged)
        scores = [detector.detect(path).score for _ in range(2)]
    assert scores == pytest.approx([Detector(nano).detect(path).score] * 2, abs=1e-5)
    assert [r.json()["temperature"] for r in server.asked if r.method == "POST"] == [0.0, 1.0, 1.0]


def test_a_server_that_tiles_otherwise_is_found_out_by_its_count_of_tokens(nano, merged, photo):
    thumbnails = dataclasses.replace(nano.settings.tiles, thumbnail=True)
    with serving(OpenAIStandIn(nano, tiles=thumbnails)) as server:
        verdict = open_served(f"{server.url}/v1", model=merged).detect(photo("a.png", (500, 300)))
    assert any("(+1 tiles): its scores may differ" in note for note in verdict.notes)


def test_the_request_is_what_the_protocol_asks_and_carries_the_token(merged, server, photo):
    open_served(f"{server.url}/v1/", model=merged, token="k").detect(photo())
    request = server.asked[-1]
    body = request.json()
    assert request.headers["authorization"] == "Bearer k"
    assert {"logprobs": True, "top_logprobs": 20, "max_tokens": 1, "temperature": 0.0}.items() <= body.items()
    assert [m["role"] for m in body["messages"]] == ["system", "user"]


def test_one_bad_file_and_bad_answers_are_rows_and_the_rest_goes_on(nano, merged, photo, tmp_path):
    inner = OpenAIStandIn(nano)
    bad = iter([None, b"no json", b'{"choices": []}', b'{"choices": [{"logprobs": {"content": []}}]}'])
    text = tmp_path / "text.jpg"
    text.write_text("no picture")

    def route(request):
        body = next(bad, None) if request.method == "POST" else None
        return inner(request) if body is None else reply(body)

    paths = [text, *(photo(f"{i}.png", seed=i) for i in range(5))]
    with serving(route) as server:
        rows = list(open_served(f"{server.url}/v1", model=merged).detect_many(paths, batch_size=1))
    assert [getattr(row, "exit_code", 0) for row in rows] == [3, 0, 8, 8, 8, 0]
    assert [row.path for row in rows] == [str(p) for p in paths]


def test_a_server_that_goes_away_ends_the_run_and_does_not_fail_file_by_file(nano, merged, photo):
    inner = OpenAIStandIn(nano)
    paths = [photo(f"{i}.png", seed=i) for i in range(4)]
    posts = []

    def route(request):
        posts.append(request.method)
        return inner(request) if posts.count("POST") <= 2 and len(posts) < 4 else reply({}, 500)

    with serving(route) as server:
        rows = open_served(f"{server.url}/v1", model=merged).detect_many(paths, batch_size=2)
        assert all(isinstance(next(rows), Verdict) for _ in range(2))
        with pytest.raises(ServerError):
            list(rows)


def test_what_no_server_could_follow_is_refused_before_anything_is_asked(merged, server, tmp_path):
    settings = json.loads((merged / "ivdetect.json").read_text())
    for change in ({"thumbnail": True}, {"min_tiles": 2}, {"thumbnail": True, "mode": "dynamic"}):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "ivdetect.json").write_text(json.dumps(settings | {"tiles": settings["tiles"] | change}))
        with pytest.raises(ConfigError):
            open_served(f"{server.url}/v1", adapter=folder)
    with pytest.raises(ConfigError, match="serves the-model"):
        open_served(f"{server.url}/v1", model=merged, served_model="other")
    with pytest.raises(ConfigError, match="404"):
        open_served(server.url, model=merged)


def test_the_asking_process_loads_no_torch(merged, server, photo):
    code = (
        "import sys; from internvl_detect.detect.served import open_served; "
        "print(open_served(sys.argv[1], model=sys.argv[2]).detect(sys.argv[3]).decision); "
        "sys.exit('torch' in sys.modules)"
    )
    arguments = [sys.executable, "-c", code, f"{server.url}/v1", str(merged), str(photo())]
    assert subprocess.run(arguments, capture_output=True, timeout=60).returncode == 0


LOGITS = st.lists(st.floats(-12, 12), min_size=40, max_size=60)


@given(LOGITS, st.permutations(range(40)))
def test_the_true_score_lies_within_the_bounds_and_is_met_when_all_are_listed(logits, places):
    names = [f"w{i}" for i in range(len(logits))]
    for word, place in zip([*YES, *NO], places, strict=False):
        names[place] = word
    probs = torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()
    mass = [sum(p for name, p in zip(names, probs, strict=True) if name in words) for words in (YES, NO)]
    true = mass[0] / sum(mass)
    ranked = sorted(zip(names, map(math.log, probs), strict=True), key=lambda pair: -pair[1])
    whole = first_token(ranked, YES, NO)
    assert 1 / (1 + math.exp(-whole.odds)) == pytest.approx(true, abs=1e-9)
    try:
        cut = first_token(ranked[:TOP], YES, NO)
    except ServerError:
        assert not {name for name, _ in ranked[:TOP]} & {*YES, *NO}
        return
    assert cut.low - 1e-9 <= true <= cut.high + 1e-9
    assert cut.low - 1e-9 <= 1 / (1 + math.exp(-cut.odds)) <= cut.high + 1e-9
    assert bool(cut.note) == (cut.high - cut.low > 1e-3)


def test_a_list_that_sampling_has_changed_is_never_taken_for_the_model_s():
    rest = [(f"w{i}", -9999.0) for i in range(19)]
    for listed in ([("Yes", 0.0)], [("Yes", 0.0), *rest]):
        with pytest.raises(Cut):
            first_token(listed, YES, NO)


KEYS = st.sampled_from(["logprobs", "content", "top_logprobs", "token", "logprob"])


@given(
    st.recursive(
        st.none() | st.floats() | st.text(max_size=3),
        lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v),
        max_leaves=12,
    )
)
def test_any_choice_has_log_probabilities_or_is_an_error(choice):
    with contextlib.suppress(ServerError):
        assert all(isinstance(token, str) and log <= 1e-3 for token, log in listed_tokens(choice))
