"""Claims about the API: its answers are the detector's, its errors are honest, its limits hold, nothing leaks."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image
from server_fixtures import SAMPLES, Gate, emptied, finished, live, nano, part

COFFEE = (SAMPLES / "coffee.jpg").read_bytes()
CHELSEA = (SAMPLES / "chelsea.jpg").read_bytes()
CLIP = (SAMPLES / "clip.mp4").read_bytes()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with live(tmp_path_factory.mktemp("serve") / "data", rate_per_min=100_000) as made:
        yield made


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_a_row_is_the_detector_s_verdict_under_the_client_s_name(client):
    files = [part("my photo.jpg", COFFEE), part("a.mp4", CLIP)]
    answer = client.post("/v1/detect?explain=true&mask=true", files=files)
    assert answer.status_code == 200
    for row, data in zip(answer.json()["results"], (COFFEE, CLIP), strict=True):
        alone = nano().detect(data, explain=True, **{"mask" if nano().draws else "regions": True}).to_dict()
        assert row["score"] == pytest.approx(alone["score"], abs=1e-5)
        assert row["probability"] == pytest.approx(alone["probability"], abs=1e-5)
        for key in ("kind", "decision", "label", "words", "sha256", "width", "height", "notes", "model"):
            assert row[key] == (list(alone[key]) if isinstance(alone[key], tuple) else alone[key])
        assert [f["index"] for f in row["frames"]] == [f["index"] for f in alone["frames"]]
        assert [r["box_xyxy"] for r in row["regions"]] == [list(r["box_xyxy"]) for r in alone["regions"]]
        assert row["name"] == row["path"] and row["name"] in ("my photo.jpg", "a.mp4")
    mask = Image.open(io.BytesIO(base64.b64decode(answer.json()["results"][0]["mask_png"])))
    assert mask.size == (600, 400)
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_bytes_as_the_body_are_a_file_too_and_its_name_is_only_text(client):
    answer = client.post(
        "/v1/detect",
        params={"name": "../../etc/\x1b[31mpasswd\u202egpj"},
        content=COFFEE,
        headers={"content-type": "image/jpeg"},
    )
    assert answer.status_code == 200
    assert answer.json()["results"][0]["name"] == "\\x1b[31mpasswd\\u202egpj"


def test_a_bad_file_among_good_ones_has_its_error_and_no_path_of_the_server_is_told(client):
    answer = client.post(
        "/v1/detect", files=[part("a.jpg", COFFEE[:3000]), part("b.jpg", COFFEE), part("c.txt", b"hi")]
    )
    assert answer.status_code == 200
    bad, good, text = answer.json()["results"]
    assert "truncated" in bad["error"] and good["error" if "error" in good else "score"] is not None
    assert "text" in text["error"] and text["exit_code"] == 3
    assert str(client.server.store.folder) not in answer.text


@pytest.mark.parametrize(
    ("query", "kind", "body", "status", "code"),
    [
        ("", "multipart/form-data; boundary=x", b"", 422, "broken_form"),
        ("", "multipart/form-data", b"--x", 422, "broken_form"),
        ("", "multipart/form-data; boundary=x", b"--x--\r\n", 422, "no_file"),
        ("", "text/html", b"<p>", 415, "unsupported_body"),
        ("", "application/json", b'{"url": "http://localhost/"}', 415, "unsupported_body"),
        ("", "image/png", b"", 415, "unreadable"),
        ("", "image/png", b"GIF89a", 415, "unreadable"),
        ("?frames=0", "image/png", b"", 422, "bad_option"),
        ("?frames=200", "image/png", b"", 422, "bad_option"),
        ("?language=xx", "image/png", b"", 422, "bad_option"),
        ("?explain=maybe", "image/png", b"", 422, "bad_option"),
    ],
)
def test_every_error_says_what_was_found_expected_and_to_be_done(client, query, kind, body, status, code):
    answer = client.post(f"/v1/detect{query}", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code and error["message"]
    assert set(error) == {"code", "message", "expected", "do"}


def test_the_same_file_is_judged_once(tmp_path):
    gate = Gate()
    with live(tmp_path / "data", gate) as client:
        answers = []
        ask = lambda: answers.append(client.post("/v1/detect", files=[part("a.png", picture(1))]).json())  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert gate.entered.wait(30)
        gate.open.set()
        for thread in threads:
            thread.join()
        ask()
        assert sum(gate.judged) == 1
        assert len({answer["results"][0]["score"] for answer in answers}) == 1
        client.post("/v1/detect?mask=true", files=[part("a.png", picture(1))])
        assert sum(gate.judged) == 2  # another question is another answer


def test_two_lanes_answer_what_one_does(tmp_path):
    with live(tmp_path / "data", lanes=2, batch_size=2) as client:
        made = client.post("/v1/jobs", files=[part(str(i), picture(i)) for i in range(12)]).json()
        for seed, row in enumerate(finished(client, made["id"])["results"]):
            assert row["score"] == pytest.approx(nano().detect(picture(seed)).score, abs=1e-5)


def test_a_full_queue_answers_429_and_says_when_to_come_again(tmp_path):
    gate = Gate()
    with live(tmp_path / "data", gate, queue=2, job_queue=3) as client:
        two = [part("a", picture(i)) for i in (1, 2)]
        held = threading.Thread(target=lambda: client.post("/v1/detect", files=two))
        held.start()
        assert gate.entered.wait(30)
        refused = client.post("/v1/detect", files=[part("b", picture(3))])
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "busy"
        assert int(refused.headers["retry-after"]) >= 1
        taken = client.post("/v1/jobs", files=[part("c", picture(4)), part("d", picture(5))])
        assert taken.status_code == 202
        assert client.post("/v1/jobs", files=[part("e", picture(6)), part("f", picture(7))]).status_code == 429
        gate.open.set()
        held.join()
        assert finished(client, taken.json()["id"])["state"] == "done"
        assert client.post("/v1/detect", files=[part("b", picture(3))]).status_code == 200
        assert emptied(client.server.store.uploads)


def test_what_takes_longer_than_the_deadline_answers_504_and_is_not_judged_for_nobody(tmp_path):
    gate = Gate()
    with live(tmp_path / "data", gate, deadline_s=0.4, batch_size=1) as client:
        answer = client.post("/v1/detect", files=[part(str(i), picture(i)) for i in range(4)])
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline"
        gate.open.set()
        time.sleep(0.3)
        assert sum(gate.judged) <= 1  # the one that the model had begun
        assert client.server.direct == 0 and emptied(client.server.store.uploads)


def test_a_client_that_goes_frees_its_place(tmp_path):
    gate = Gate()
    with live(tmp_path / "data", gate, batch_size=1, queue=4) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/detect", files=[part(str(i), picture(i)) for i in range(4)], timeout=0.5)
        until = time.monotonic() + 10
        while client.server.direct and time.monotonic() < until:
            time.sleep(0.02)
        assert client.server.direct == 0
        gate.open.set()
        assert client.post("/v1/detect", files=[part("x", picture(9))]).status_code == 200
        assert sum(gate.judged) <= 2  # one was begun, one was asked for


def test_limits_hold_while_bytes_still_come(tmp_path):
    limits = {"max_file_bytes": 100_000, "max_request_bytes": 250_000, "max_files": 3, "max_pixels": 20_000}
    with live(tmp_path / "data", **limits) as client:
        large = client.post("/v1/detect", files=[part("a", b"x" * 100_001)])
        assert large.status_code == 413 and large.json()["error"]["code"] == "too_large"

        def endless():
            for _ in range(400):
                yield b"x" * 1000

        streamed = client.post("/v1/detect", content=endless(), headers={"content-type": "image/png"})
        assert streamed.status_code == 413
        many = client.post("/v1/detect", files=[part(str(i), b"x") for i in range(4)])
        assert many.status_code == 413 and many.json()["error"]["code"] == "too_many_files"
        with socket.create_connection(("127.0.0.1", client.port), 5) as raw:
            lines = [
                "POST /v1/detect HTTP/1.1",
                "Host: localhost",
                "Content-Type: image/png",
                "Content-Length: 999999999",
            ]
            raw.sendall("\r\n".join([*lines, "", ""]).encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 413")
        pixels = client.post("/v1/detect", files=[part("big.png", picture(1, (200, 150)))])
        assert pixels.status_code == 415 and "megapixels" in pixels.json()["error"]["message"]
        assert emptied(client.server.store.uploads)


def test_a_job_tells_its_progress_and_gives_report_mask_overlay_and_previews(client):
    files = [part("a.jpg", CHELSEA), part("a.jpg", CLIP), part("no.txt", b"text")]
    made = client.post("/v1/jobs?mask=1&explain=1&language=zh", files=files)
    assert made.status_code == 202 and made.headers["location"] == f"/v1/jobs/{made.json()['id']}"
    base = made.headers["location"]
    kinds, last = [], {}
    with client.stream("GET", f"{base}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kinds.append(line[7:])
            elif line.startswith("data: "):
                last = json.loads(line[6:])
    assert kinds[-1] == "done" and set(kinds[:-1]) <= {"progress"}
    assert last == client.get(base).json()
    assert (last["state"], last["done"], last["total"]) == ("done", 3, 3)
    assert [file["name"] for file in last["files"]] == ["a.jpg", "a.jpg (2)", "no.txt"]
    assert [file["state"] for file in last["files"]] == ["done", "done", "failed"]
    assert last["results"][0]["headline"] in ("无法判断", "未发现伪造迹象", "很可能经过篡改", "很可能由 AI 生成")
    assert Image.open(io.BytesIO(client.get(f"{base}/mask?file=0").content)).size == (451, 300)
    assert Image.open(io.BytesIO(client.get(f"{base}/overlay?file=0").content)).size == (451, 300)
    assert max(Image.open(io.BytesIO(client.get(f"{base}/preview?file=0").content)).size) <= 1024
    frames = len(last["results"][1]["frames"])
    for frame, status in ((0, 200), (frames - 1, 200), (frames, 404)):
        assert client.get(f"{base}/preview?file=1&frame={frame}").status_code == status
    report = client.get(f"{base}/report")
    assert report.text.startswith("<!DOCTYPE html>") and "a.jpg (2)" in report.text
    assert "sandbox" in report.headers["content-security-policy"]
    assert "a.jpg (2)" not in client.get(f"{base}/report?file=0").text
    assert client.get(f"{base}/report.json").json()["results"] == last["results"]
    assert client.get(f"{base}/report.md").text.startswith("# Detection report")
    for path, status in (("mask?file=1", 404), ("mask?file=2", 404), ("preview?file=9", 404), ("preview?file=-1", 422)):
        assert client.get(f"{base}/{path}").status_code == status
    assert client.delete(base).status_code == 204
    for path in (base, f"{base}/events", f"{base}/report", f"{base}/preview"):
        assert client.get(path).status_code == 404


def test_a_job_can_be_given_up_in_the_middle(tmp_path):
    gate = Gate()
    with live(tmp_path / "data", gate, batch_size=1) as client:
        job = client.post("/v1/jobs", files=[part(str(i), picture(i)) for i in range(8)]).json()
        assert gate.entered.wait(30)
        assert client.get(f"/v1/jobs/{job['id']}/report").status_code == 409
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
        gate.open.set()
        assert client.post("/v1/detect", files=[part("x", picture(99))]).status_code == 200
        assert sum(gate.judged) <= 2
        assert emptied(client.server.store.uploads)


def test_a_small_job_does_not_wait_for_a_large_one(tmp_path):
    gate = Gate()
    with live(tmp_path / "data", gate, batch_size=1) as client:
        large = client.post("/v1/jobs", files=[part(str(i), picture(i)) for i in range(30)]).json()
        small = client.post("/v1/jobs", files=[part("s", picture(77))]).json()
        gate.open.set()
        finished(client, small["id"])
        assert client.get(f"/v1/jobs/{large['id']}").json()["done"] < 30
        assert finished(client, large["id"])["done"] == 30


def test_results_expire_with_everything_that_was_kept(tmp_path):
    with live(tmp_path / "data", keep=True) as client:
        job = client.post("/v1/jobs", files=[part("a.jpg", CHELSEA)]).json()["id"]
        finished(client, job)
        store = client.server.store
        assert [f.read_bytes() for f in store.uploads.iterdir()] == [CHELSEA]  # kept, as the option says
        assert store.expire(time.time() + 23 * 3600) == 0
        assert store.expire(time.time() + 25 * 3600) == 1
        assert client.get(f"/v1/jobs/{job}").json()["state"] == "expired"
        assert client.get(f"/v1/jobs/{job}/report").status_code == 410
        assert list(store.uploads.iterdir()) == []
        assert store.read("SELECT count(*) FROM cache") == store.read("SELECT count(*) FROM pictures") == [(0,)]


def test_uploads_are_gone_once_judged_and_metrics_and_readiness_tell_the_state(client):
    job = client.post("/v1/jobs", files=[part("a.jpg", COFFEE)]).json()["id"]
    finished(client, job)
    assert emptied(client.server.store.uploads)
    text = client.get("/metrics").text
    for name in (
        "requests_total",
        "queue_files",
        "batch_size_bucket",
        "stage_seconds_bucket",
        "decoder_restarts_total",
    ):
        assert f"ivdetect_{name}" in text
    assert "coffee" not in text and job not in text
    ready = client.get("/readyz").json()
    assert ready["model"] == nano().loaded.name and ready["low"] < ready["high"]
    assert nano().calibration.probability(ready["score_low"]) == pytest.approx(ready["low"])
    assert client.get("/healthz").json()["status"] == "ok"
