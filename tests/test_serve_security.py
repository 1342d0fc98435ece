"""Claims about what a stranger cannot do: other sites' pages, wrong names, wrong tokens, hostile files, floods."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_fixtures import SAMPLES, live, part

from internvl_detect.errors import ConfigError
from internvl_detect.media.cuts import Cut, CutPlan
from internvl_detect.media.tiles import TileSettings
from internvl_detect.serve import wire
from internvl_detect.serve.decoders import Decoders
from internvl_detect.serve.limits import Limits
from internvl_detect.serve.problems import Problem
from internvl_detect.serve.settings import Settings
from internvl_detect.serve.tokens import Tokens
from internvl_detect.serve.uploads import clean_name
from internvl_detect.verdict import Failure

COFFEE = (SAMPLES / "coffee.jpg").read_bytes()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with live(tmp_path_factory.mktemp("serve") / "data", rate_per_min=100_000, decode_s=3, decode_mib=700) as made:
        yield made


def test_a_name_that_is_not_ours_is_refused_so_a_rebound_name_gets_nothing(client):
    port = client.port
    for host, status in [
        (f"127.0.0.1:{port}", 200), ("localhost", 200), ("[::1]:80", 200), ("LOCALHOST.", 200), ("10.0.0.7", 200),
        ("evil.example", 421), (f"evil.example:{port}", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil", 421),
        ("", 421), ("a@localhost:b", 421), ("localhost, evil.example", 421),
    ]:  # fmt: skip
        assert client.get("/healthz", headers={"host": host}).status_code == status, host


def test_another_site_s_page_can_change_nothing_and_read_nothing(client):
    own = f"http://127.0.0.1:{client.port}"
    files = [part("a.jpg", COFFEE)]
    for headers, status in [
        ({"origin": own}, 200),
        ({"origin": own, "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"http://127.0.0.1:{client.port + 1}"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ]:
        assert client.post("/v1/detect", files=files, headers=headers).status_code == status, headers
    answer = client.get("/healthz", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_every_answer_has_the_strict_headers_and_the_page_runs_no_inline_script(client):
    paths = ["/", "/static/page.js", "/healthz", "/nothing", "/openapi.json", "/v1/jobs/none", "/static/..%2fapp.py"]
    for path in paths:
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    page = client.get("/").text
    assert "<style" not in page and " style=" not in page and "onclick" not in page and "http:" not in page
    assert page.count("<script") == page.count('<script type="module" src=')


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/page", "/v1/jobs/../../x"]
)
def test_no_path_of_a_request_reaches_a_file(client, path):
    with socket.create_connection(("127.0.0.1", client.port), 5) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = raw.makefile("rb").read()
    assert b" 404 " in answer.split(b"\r\n", 1)[0] and b"root:" not in answer


def png_bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1_000_000, 9)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


HOSTILE = {
    "nothing": b"",
    "noise": os.urandom(5000),
    "a bomb of pixels": png_bomb(60_000),
    "a picture that breaks off": COFFEE[: len(COFFEE) // 2],
    "a clip that breaks off": (SAMPLES / "clip.mp4").read_bytes()[:60_000],
    "a script": b"#!/bin/sh\nrm -rf /\n",
    "a drawing with a script": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "a playlist of files": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a page": b"<!DOCTYPE html><script>alert(1)</script>",
    "a zip": b"PK\x03\x04" + b"\0" * 100,
    "a clip that names another": b"\0\0\0\x14ftypqt  \0\0\0\0qt  \0\0\0\x20moov\0\0\0\x18rmra\0\0\0\x10rdrfurl /etc/p",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gets_an_honest_error_and_the_next_good_one_its_verdict(client, name):
    answer = client.post("/v1/detect", files=[part(name, HOSTILE[name])])
    assert answer.status_code == 415 and answer.json()["results"][0]["exit_code"] == 3
    assert "bug" not in answer.text
    assert client.post("/v1/detect", files=[part("a.jpg", COFFEE)]).status_code == 200


@given(st.binary(max_size=600), st.sampled_from([b"", COFFEE[:400], png_bomb(8)[:200], b"\0\0\0\x18ftypmp42"]))
@settings(max_examples=25)
def test_no_upload_brings_the_server_down(client, tail, head):
    answer = client.post("/v1/detect", content=head + tail, headers={"content-type": "application/octet-stream"})
    assert answer.status_code in (200, 415)


@given(st.binary(max_size=500))
@settings(max_examples=40)
def test_no_form_brings_the_server_down(client, body):
    kind = {"content-type": "multipart/form-data; boundary=b"}
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
    for form in (body, start + body, start + body + b"\r\n--b--\r\n"):
        assert client.post("/v1/detect", content=form, headers=kind).status_code in (200, 413, 415, 422)


def order(path: Path, **changes):
    plan = wire.plan_to_json(CutPlan(TileSettings("native", 224, 1, 4, False)))
    limits = {"max_bytes": 1 << 28, "max_pixels": 90_000_000, "max_duration_s": 900.0, "cpu_s": 20.0}
    return {"path": str(path), "name": "the file", "plan": plan, "previews": False, **limits, **changes}


def test_a_file_that_takes_too_long_or_too_much_ends_its_process_and_a_successor_goes_on(tmp_path):
    from PIL import Image

    Image.new("L", (9000, 9000)).save(tmp_path / "wide.png")
    restarts = []
    decoders = Decoders(1, 600, 0.02, lambda: restarts.append(1))
    try:
        slow = decoders.decode(order(tmp_path / "wide.png"), 224)
        assert isinstance(slow, Failure) and slow.exit_code == 3 and restarts == [1]
        decoders.seconds = 30
        assert isinstance(decoders.decode(order(SAMPLES / "coffee.jpg"), 224), wire.Decoded)
        for where in (1, 2):
            Image.new("RGB", (15_000, 15_000 * where // 2)).save(tmp_path / f"{where}.bmp")
        large = decoders.decode(order(tmp_path / "2.bmp", max_pixels=10**9, max_bytes=10**10), 224)
        assert isinstance(large, Failure) and large.exit_code == 3
        assert isinstance(decoders.decode(order(SAMPLES / "coffee.jpg"), 224), wire.Decoded)
    finally:
        decoders.close()


def test_a_decoding_process_can_write_no_file_and_has_no_secret_of_the_server(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "s3cret")
    decoders = Decoders(1, 600, 30)
    try:
        pid = decoders._all[0].process.pid
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max file size             0 " in limits and "Max core file size        0 " in limits
        assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
        if decoders.without_network:
            assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    finally:
        decoders.close()


def test_memory_that_earlier_files_took_costs_no_sound_file_its_verdict(monkeypatch):
    decoders = Decoders(1, 600, 30)
    try:
        assert isinstance(decoders.decode(order(SAMPLES / "coffee.jpg"), 224), wire.Decoded)
        worn = decoders._all[0]
        said = {"error": "a picture needs more than the decoder may use", "exit_code": 3, "out_of_memory": True}
        monkeypatch.setattr(worn, "_exchange", lambda order, seconds: (said, []))
        assert isinstance(decoders.decode(order(SAMPLES / "coffee.jpg"), 224), wire.Decoded)
        assert not worn.alive and decoders._all != [worn]
    finally:
        decoders.close()


@given(st.binary(max_size=400))
def test_no_answer_of_a_decoder_that_was_taken_over_raises_anything_else_or_takes_memory(data):
    stream = io.BytesIO(data)
    try:
        found = wire.receive(stream)
        if found is not None:
            wire.to_decoded(*found, 224)
    except wire.BadMessage:
        pass


@given(
    st.dictionaries(
        st.sampled_from(["facts", "shapes", "parts", "boxes", "alone", "indices", "times_s", "evidence", "timings"]),
        st.recursive(
            st.none() | st.integers() | st.text() | st.floats(), lambda x: st.lists(x, max_size=4), max_leaves=8
        ),
    )
)
def test_no_header_of_a_decoder_does_either(header):
    import numpy as np

    sound = io.BytesIO()
    cut = Cut("image", 3, 4, "00", (), [np.zeros((1, 224, 224, 3), np.uint8)], tile_boxes=[[(0, 0, 3, 4)]])
    wire.send_decoded(sound, wire.Decoded(cut))
    sound.seek(0)
    made, blobs = wire.receive(sound)
    assert wire.to_decoded(made, blobs, 224).cut.parts[0].shape == (1, 224, 224, 3)
    with contextlib.suppress(wire.BadMessage):
        wire.to_decoded({**made, **header}, blobs, 224)


def test_tokens_are_asked_for_kept_as_hashes_and_withdrawn_at_once(tmp_path):
    tokens = Tokens(tmp_path / "data")
    first, second = tokens.create("first"), tokens.create("second")
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    for secret in (first, second):
        assert secret.split("_", 2)[2] not in tokens.path.read_text()
    with live(tmp_path / "data", concurrent=50) as client:
        as_first, as_second = ({"authorization": f"Bearer {t}"} for t in (first, second))
        files = [part("a.jpg", COFFEE)]
        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        for path in ("/metrics", "/v1/jobs/x"):
            assert client.get(path).status_code == 401
        for header in ({}, {"authorization": "Bearer nothing"}, {"authorization": f"Basic {first}"}):
            refused = client.post("/v1/detect", files=files, headers=header)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/detect", files=files, headers=as_first).status_code == 200
        job = client.post("/v1/jobs", files=files, headers=as_first).json()["id"]
        assert client.get(f"/v1/jobs/{job}", headers=as_first).status_code == 200
        for method in ("GET", "DELETE"):  # another's job is as unknown as none
            assert client.request(method, f"/v1/jobs/{job}", headers=as_second).status_code == 404
        Tokens(tmp_path / "data").withdraw("first")
        assert client.get(f"/v1/jobs/{job}", headers=as_first).status_code == 401
        Tokens(tmp_path / "data").withdraw("second")  # the last: still nobody gets in without
        assert client.get("/metrics").status_code == 401
        wrong = first[:-1] + ("A" if first[-1] != "A" else "B")
        tried = [client.get("/metrics", headers={"authorization": f"Bearer {wrong}"}).status_code for _ in range(25)]
        assert set(tried) == {401, 429}  # guessing is slowed down


@given(st.text(max_size=80))
def test_no_text_is_a_token_by_chance(text):
    assert Tokens(Path("/nonexistent")).owner_of(text) is None


def test_a_server_open_to_others_wants_a_token_or_an_explicit_word(tmp_path):
    with pytest.raises(ConfigError, match="token"):
        Settings(tmp_path, host="0.0.0.0").check_open(False)
    with pytest.raises(ConfigError, match="token"):
        Settings(tmp_path, host="detect.example.org").check_open(False)
    Settings(tmp_path, host="0.0.0.0").check_open(True)
    Settings(tmp_path, host="0.0.0.0", no_auth=True).check_open(False)
    Settings(tmp_path, host="::1").check_open(False)
    command = [sys.executable, "-m", "internvl_detect.cli", "serve", "--host", "0.0.0.0", "--data-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == ConfigError.exit_code and "ivdetect serve token" in ended.stderr


def test_a_caller_may_ask_so_often_and_so_much_at_once_and_others_are_not_touched():
    limits = Limits(rate_per_min=5, concurrent=2)
    with limits.hold("a"), limits.hold("a"), pytest.raises(Problem) as refused, limits.hold("a"):
        pass
    assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1
    with pytest.raises(Problem):
        for _ in range(6):
            with limits.hold("a"):
                pass
    with limits.hold("b"):
        pass


@given(st.text(max_size=300))
def test_a_client_s_name_is_one_visible_line_without_folders(name):
    clean = clean_name(name)
    assert clean and "/" not in clean and len(clean.splitlines()) == 1
    clean.encode("utf-8")


def test_a_client_that_sends_nothing_is_let_go(client, monkeypatch):
    monkeypatch.setattr("internvl_detect.serve.app.HEADER_S", 0.3)
    for start in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
        with socket.create_connection(("127.0.0.1", client.port), 5) as raw:
            raw.settimeout(5)
            raw.sendall(start)
            began = time.monotonic()
            while raw.recv(4096):
                pass
            assert time.monotonic() - began < 4
