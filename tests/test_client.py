"""Claims about the client of our server: what it sends, what it makes of answers, and what a hostile one cannot do."""

from __future__ import annotations

import contextlib
import email
import email.policy
import io
import json
import threading
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in import reply, serving

from internvl_detect import http_calls
from internvl_detect.client import Client
from internvl_detect.errors import ConfigError, IvdetectError, MediaError, ServerError
from internvl_detect.verdict import Failure, Frame, Verdict

ROW = Verdict(
    "served name.png", "image", 0.75, 0.8, "fake", "tampered", "nano", {"total_s": 0.1}, frames=(Frame(1, 0.5, 0.7),)
).to_dict()
JOB = {"id": "j1", "state": "running", "done": 1, "total": 2, "stage": "judging", "files": [], "results": []}


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr(http_calls, "FIRST_WAIT_S", 0.01)


def test_a_file_goes_up_as_it_is_and_comes_back_as_a_verdict_under_its_own_path(tmp_path):
    path = tmp_path / "ä photo&x.png"
    path.write_bytes(bytes(range(256)) * 3000)
    with serving(lambda r: reply({"results": [ROW], "request_id": "1"})) as server:
        client = Client(server.url, "s3cret")
        row = client.detect(path, explain=True, mask=True, frames=3, language="zh")
        assert client.detect(path.read_bytes(), name="b.png").path == "b.png"
        file = io.BytesIO(b"xx" + path.read_bytes())
        file.seek(2)
        assert client.detect(file).path == "upload"
    assert isinstance(row, Verdict) and row.path == str(path) and row.score == 0.75 and row.frames[0].score == 0.7
    first = server.asked[0]
    assert first.query == {"explain": "true", "mask": "true", "frames": "3", "language": "zh", "name": path.name}
    assert first.headers["authorization"] == "Bearer s3cret"
    assert all(asked.body == path.read_bytes() for asked in server.asked)


def test_several_files_go_as_a_form_that_others_can_read(tmp_path):
    paths = [tmp_path / 'we"ird\n.png', tmp_path / "b.mp4"]
    for i, path in enumerate(paths):
        path.write_bytes(f"--content {i}\r\n".encode())
    with serving(lambda r: reply(JOB, 202)) as server:
        assert Client(server.url).submit(paths, frames=2).id == "j1"
    asked = server.asked[0]
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    parts = list(email.message_from_bytes(head + asked.body, policy=email.policy.HTTP).iter_parts())
    assert [p.get_payload(decode=True) for p in parts] == [p.read_bytes() for p in paths]
    assert [p.get_filename() for p in parts] == ["we%22ird%0A.png", "b.mp4"]
    assert {p.get_param("name", header="content-disposition") for p in parts} == {"files"}
    assert asked.query == {"frames": "2"} and int(asked.headers["content-length"]) == len(asked.body)


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)

    def take(request):
        left = int(request.headers["content-length"])
        while left:
            left -= len(request.handler.rfile.read(min(left, 2**16)))
        return reply({"results": [ROW]})

    with serving(take, read_body=False) as server:
        tracemalloc.start()
        Client(server.url).detect(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20 * 2**20


def test_a_busy_server_is_asked_again_when_it_says_so_and_not_for_ever():
    answers = iter([(429, "0"), (503, "Thu, 01 Jan 1970 00:00:00 GMT"), (429, None)])

    def route(request):
        status, after = next(answers, (200, None))
        error = {"error": {"code": "busy", "message": "the queue is full", "expected": "", "do": "wait"}}
        return reply(
            {"results": [ROW]} if status == 200 else error, status, **({"Retry_After": after} if after else {})
        )

    with serving(route) as server:
        assert Client(server.url).detect(b"x").score == 0.75
        assert len(server.asked) == 4 and {r.body for r in server.asked} == {b"x"}
    with serving(lambda r: reply({"error": {"message": "the queue is full"}}, 429, Retry_After="3600")) as server:
        began = time.monotonic()
        with pytest.raises(ServerError, match="429: the queue is full"):
            Client(server.url, timeout=30).detect(b"x")
        assert time.monotonic() - began < 5 and len(server.asked) == 1


def test_a_refusal_is_the_kind_of_error_that_it_is_about():
    kinds = {401: ConfigError, 403: ConfigError, 422: ConfigError, 413: MediaError, 415: MediaError, 500: ServerError}
    for status, kind in kinds.items():
        error = {"error": {"code": "c", "message": f"no {status}", "expected": "yes", "do": "turn\x1b[31m back"}}
        with serving(lambda r, s=status, e=error: reply(e, s)) as server, pytest.raises(kind) as caught:
            Client(server.url).detect(b"x")
        assert f"no {status}" in caught.value.found and caught.value.expected == "yes"
        assert caught.value.do == "turn\\x1b[31m back"


def test_a_redirect_is_not_followed_and_the_token_goes_nowhere():
    with serving(lambda r: reply({"results": [ROW]})) as elsewhere:
        for status in (301, 302, 307, 308):
            answer = reply(b"", status, Location=elsewhere.url + "/v1/detect")
            with serving(lambda r, a=answer: a) as server, pytest.raises(ServerError, match="redirects to"):
                Client(server.url, "s3cret").detect(b"x")
        assert not elsewhere.asked


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[1]", b'{"results": 3}', b'{"results": []}', b'{"results": [{"path": "a"}]}', b"\xff\xfe{"]
    + [b'{"results": [NaN]}', b'{"results": [null]}', b"[" * 100_000, b'{"results": [{"path": "a", "error": []}, 2]}'],
)
def test_an_answer_that_makes_no_sense_is_an_error(body):
    with serving(lambda r: reply(body)) as server, pytest.raises(ServerError):
        Client(server.url).detect(b"x")


PLAIN = st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers()
KEYS = st.sampled_from([*ROW, *JOB])


@given(st.recursive(PLAIN, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=8), max_leaves=20))
def test_any_json_is_a_row_or_an_error(value):
    from internvl_detect.client import _job, _rows

    for results in (value, [value]):
        with contextlib.suppress(IvdetectError):
            _rows({"results": results}, ["a"])
    with contextlib.suppress(IvdetectError):
        _job(value)


def test_a_huge_answer_is_cut_off(monkeypatch):
    monkeypatch.setattr(http_calls, "MAX_ANSWER", 1000)

    def endless(request):
        request.handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(10_000):
            request.handler.wfile.write(b"x" * 10_000)

    with serving(endless) as server, pytest.raises(ServerError, match="larger than 100 bytes"):
        Client(server.url).caller.call("GET", "/", max_bytes=100)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
def test_a_server_that_drips_does_not_hold_the_client_beyond_its_deadline(start):
    def drip(request):
        request.handler.wfile.write(start)
        for _ in range(100):
            time.sleep(0.05)
            request.handler.wfile.write(b"x")

    with serving(drip) as server:
        began = time.monotonic()
        with pytest.raises(ServerError, match="no whole answer in 0.4 s"):
            Client(server.url, timeout=0.4).detect(b"x")
        assert time.monotonic() - began < 3


def test_a_server_that_hangs_up_is_asked_again_but_a_job_is_never_handed_in_twice():
    def hang_up(request):
        request.handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")

    with serving(hang_up) as server:
        with pytest.raises(ServerError, match="too early"):
            Client(server.url, retries=2).detect(b"x")
        assert len(server.asked) == 3
        with pytest.raises(ServerError):
            Client(server.url, retries=2).submit([b"x"])
        assert len(server.asked) == 4


def test_no_server_at_all_is_said_in_words():
    with serving(lambda r: reply({})) as server:
        url = server.url
    with pytest.raises(ServerError, match="cannot be asked") as caught:
        Client(url, retries=1).detect(b"x")
    assert caught.value.exit_code == 8


def test_a_job_is_watched_to_its_end_over_broken_streams():
    done = JOB | {"state": "done", "done": 2, "results": [ROW, Failure("b", "broken", 3).to_dict()]}
    streams = iter([[JOB], [], [JOB, done]])

    def route(request):
        if not request.path.endswith("/events"):
            return reply(JOB)
        request.handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n")
        for state in next(streams):
            name = b"done" if state["state"] == "done" else b"progress"
            request.handler.wfile.write(b"event: %s\ndata: %s\n\n" % (name, json.dumps(state).encode()))
        return None

    with serving(route) as server:
        seen = list(Client(server.url).watch("j1"))
    assert [s.state for s in seen][-1] == "done" and {s.state for s in seen[:-1]} == {"running"}
    assert [type(r) for r in seen[-1].results] == [Verdict, Failure] and seen[-1].ended


def test_what_belongs_to_a_job_is_fetched_and_cancelled_under_its_quoted_name():
    with serving(lambda r: reply(b"content of " + r.path.encode())) as server:
        client = Client(server.url)
        assert client.report("a/../b", "md", file=1).endswith(b"/v1/jobs/a%2F..%2Fb/report.md")
        assert client.mask("j").endswith(b"/mask") and client.overlay("j", 2) and client.preview("j")
        client.cancel("j")
        with pytest.raises(ConfigError):
            client.report("j", "pdf")
        with pytest.raises(ConfigError):
            client.job("..")
    assert server.asked[-1].method == "DELETE" and server.asked[2].query == {"file": "2"}


def test_ready_tells_a_server_that_takes_no_work_from_none():
    with serving(lambda r: reply({}, 503)) as server:
        assert not Client(server.url, retries=0).ready()
    with serving(lambda r: reply({})) as server:
        assert Client(server.url).ready()


def test_a_file_that_is_none_never_reaches_the_server(tmp_path):
    (tmp_path / "empty").touch()
    with serving(lambda r: reply({"results": [ROW]})) as server:
        client = Client(server.url)
        for media in (tmp_path, tmp_path / "absent", tmp_path / "empty", b"", "/dev/zero"):
            with pytest.raises(MediaError):
                client.detect(media)
        assert not server.asked


def test_a_file_that_shrinks_meanwhile_is_an_error_and_not_a_wait(tmp_path):
    from internvl_detect.uploads import Part

    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    with pytest.raises(MediaError, match="shorter"):
        list(Part(path, "a").chunks(101))


@pytest.mark.parametrize(
    "url", ["", "host:80", "ftp://a", "http://", "http://u:p@a", "http://a/?q=1", "http://a:99999"]
)
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(ConfigError):
        Client(url)


@pytest.mark.parametrize("token", ["", "a\nb", " a", "ä"])
def test_a_token_cannot_smuggle_headers(token):
    with pytest.raises(ConfigError):
        Client("http://a", token)


def test_a_certificate_that_nobody_trusts_is_refused():
    import socket
    import ssl

    listener = socket.create_server(("127.0.0.1", 0))

    def answer_in_plain():
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    threading.Thread(target=answer_in_plain, daemon=True).start()
    client = Client(f"https://127.0.0.1:{listener.getsockname()[1]}", retries=0, timeout=5)
    assert client.caller._tls.verify_mode == ssl.CERT_REQUIRED and client.caller._tls.check_hostname
    with pytest.raises(ServerError, match="cannot be asked"):
        client.detect(b"x")
    listener.close()
