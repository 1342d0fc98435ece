"""Claims about a server that is killed, stopped and started again: what it accepted is judged, once, by someone."""

from __future__ import annotations

import signal
import time

from server_fixtures import SAMPLES, Process, finished, part

from internvl_detect.serve.store import MOST_TRIES, Store


def tree(pid: int) -> list[int]:
    from pathlib import Path

    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    from pathlib import Path

    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_nothing_accepted_is_lost_over_a_kill_and_what_was_taken_is_finished_at_a_stop(tmp_path):
    folder, samples = tmp_path / "data", sorted(SAMPLES.glob("*.jpg"))
    server = Process(folder)
    files = [part(f.name, f.read_bytes()) for f in samples] + [part("clip.mp4", (SAMPLES / "clip.mp4").read_bytes())]
    jobs = [server.client.post(f"/v1/jobs?mask=1&frames={n}", files=files).json()["id"] for n in (4, 5, 6)]
    children = tree(server.process.pid)
    assert children
    time.sleep(0.5)
    server.kill(signal.SIGKILL)
    until = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, children))  # the decoding processes go with their server

    server = Process(folder)
    for job in jobs[:1]:
        found = finished(server.client, job)
        assert found["state"] == "done" and found["done"] == len(files)
        assert all(row.get("error") is None for row in found["results"])
    assert server.kill(signal.SIGTERM) == 0  # in order, with jobs left for the next

    server = Process(folder, "--verbose")
    for job in jobs:
        found = finished(server.client, job)
        assert (found["state"], found["done"]) == ("done", len(files))
    assert list((folder / "uploads").iterdir()) == []
    server.client.post("/v1/detect", files=[part("secret-name.jpg", samples[0].read_bytes())])
    assert server.kill(signal.SIGINT) == 0
    assert "POST /v1/detect 200" in server.said
    assert "secret-name" not in server.said and jobs[0] not in server.said


def test_uploads_that_no_job_knows_are_swept_and_a_file_that_ends_servers_is_given_up(tmp_path):
    store = Store(tmp_path / "data")
    (store.uploads / "orphan").write_bytes(b"x")
    (store.uploads / "known").write_bytes(b"x")
    job = store.add_job("", {}, [("a.jpg", "00", "known")], 60)
    for tries in range(1, MOST_TRIES + 2):
        assert store.start_file(job.id, 0) == tries
    store.close()
    again = Store(tmp_path / "data")
    assert [f.name for f in again.uploads.iterdir()] == ["known"]
    assert again.open_jobs() == [job.id] and again.open_files() == 1
    again.finish_file(job.id, 0, {"error": None}, keep=False)
    assert again.job(job.id).state == "done" and list(again.uploads.iterdir()) == []
    again.close()
