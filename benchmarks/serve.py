"""``ivdetect serve`` under load: many clients, pictures, clips and hostile files, a kill -9 and restart in the middle.

Three measurements of the same mix in one run, each with files of its own (a comment in every file makes it another, so
the cache answers only the share that is sent twice on purpose): one request at a time; all clients at once; all clients
with jobs among the requests, over a kill -9. Clients try again after the kill, as theirs must. Memory is the
proportional set size of the server with its decoding processes. schemathesis can run beside the load.

    python benchmarks/serve.py --seconds 300          # prints, writes results/serve.json
    python benchmarks/serve.py --seconds 60 --schemathesis 200
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import torch

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "serve.json"
SAMPLES = ROOT / "internvl_detect" / "embedded" / "samples"
PICTURES = [path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))]
CLIP = (SAMPLES / "clip.mp4").read_bytes()
HONEST = {200, 202, 415, 413, 429}
HOSTILE = [
    b"",
    b"<html><script>alert(1)</script>",
    b"PK\x03\x04" + b"\0" * 200,
    PICTURES[0][:9000],
    CLIP[:60_000],
    b"#EXTM3U\nfile:///etc/passwd\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0) + b"\0" * 99,
    b"GIF89a" + b"\xff" * 5000,
]


def unique(number: int, kind: str) -> bytes:
    """A sample with ``number`` in a comment: the same picture or clip, another file."""
    mark = f"{number}".encode()
    if kind == "clip":
        return CLIP + struct.pack(">I", 8 + len(mark)) + b"free" + mark
    data = PICTURES[number % len(PICTURES)]
    return data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(mark)) + mark + data[2:]


class Mix:
    """Endless (kind, bytes): clips, hostile files and files sent before in given shares, pictures for the rest."""

    def __init__(self, seed: int, clips: float = 0.08, hostile: float = 0.1, again: float = 0.3) -> None:
        self.random, self.shares, self.number = random.Random(seed), (clips, hostile, again), seed * 10_000_000
        self.lock = threading.Lock()

    def next(self) -> tuple[str, bytes]:
        with self.lock:
            clips, hostile, again = self.shares
            draw, self.number = self.random.random(), self.number + 1
            if draw < hostile:
                return "hostile", self.random.choice(HOSTILE) or b"\0"
            if draw < hostile + again:
                base = self.number - self.number % 10_000_000
                return "again", unique(base + self.random.randrange(20), "picture")
            kind = "clip" if draw < hostile + again + clips else "picture"
            return kind, unique(self.number, kind)


class Server:
    """``ivdetect serve`` on a port, which comes back on the same port."""

    def __init__(self, folder: Path, port: int, lanes: int) -> None:
        limits = ["--rate-per-min", "1000000", "--concurrent", "256", "--queue", "128", "--lanes", str(lanes)]
        command = [sys.executable, "-m", "internvl_detect.cli", "serve", "--port", str(port)]
        self.command = [*command, "--data-dir", str(folder), "--decoders", "2", *limits]
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL, env=env)
        while True:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def memory_mb(self) -> float:
        """Of the process and its children."""
        total, pid = 0.0, self.process.pid
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if int(entry.name) == pid or parent == pid:
                    lines = (entry / "smaps_rollup").read_text().splitlines()
                    total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
            except (OSError, StopIteration):
                continue
        return total


class Load:
    """What clients met: seconds of every answer, by kind of file, statuses, jobs accepted."""

    def __init__(self, server: Server, mix: Mix, jobs: bool) -> None:
        self.server, self.mix, self.jobs = server, mix, jobs
        self.seconds: list[tuple[str, float]] = []
        self.statuses: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.accepted: list[tuple[str, int]] = []
        self.down = threading.Event()
        self.lock = threading.Lock()

    def run(self, clients: int, seconds: float) -> float:
        """Files a second."""
        until, began = time.monotonic() + seconds, time.monotonic()
        threads = [threading.Thread(target=self._client, args=(n, until)) for n in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(self.seconds) / (time.monotonic() - began)

    def _client(self, number: int, until: float) -> None:
        chance = random.Random(number)
        with httpx.Client(base_url=self.server.url, timeout=120) as client:
            while time.monotonic() < until:
                as_job = self.jobs and chance.random() < 0.15
                files = [self.mix.next() for _ in range(3 if as_job else 1)]
                self._send(client, files, as_job)

    def _send(self, client: httpx.Client, files: list[tuple[str, bytes]], as_job: bool) -> None:
        form = [("files", (kind, data)) for kind, data in files]
        began = time.perf_counter()
        try:
            answer = client.post("/v1/jobs" if as_job else "/v1/detect", files=form)
        except httpx.TransportError as error:
            self._count("kill" if self.down.is_set() else "", type(error).__name__)
            time.sleep(0.3)
            return
        spent = time.perf_counter() - began
        with self.lock:
            self.statuses[str(answer.status_code)] += 1
            if answer.status_code == 202:
                self.accepted.append((answer.json()["id"], len(files)))
                return
            kind = files[0][0]
            if answer.status_code == 200 or (answer.status_code == 415 and kind == "hostile"):
                self.seconds.append((kind, spent))
            elif answer.status_code not in HONEST or answer.status_code == 415:
                self.wrong[f"{answer.status_code} for {kind}: {answer.text[:120]}"] += 1
        if answer.status_code == 429:
            time.sleep(float(answer.headers["retry-after"]))

    def _count(self, during: str, name: str) -> None:
        with self.lock:
            (self.statuses if during else self.wrong)[f"{name}{' during the kill' if during else ''}"] += 1

    def summary(self, rate: float) -> dict[str, Any]:
        def of(values: list[float]) -> dict[str, float]:
            cuts = statistics.quantiles(values, n=100) if len(values) > 1 else values * 99
            return {"n": len(values), "p50_s": round(cuts[49], 3), "p99_s": round(cuts[98], 3)}

        kinds = {kind for kind, _ in self.seconds}
        by_kind = {kind: of([s for k, s in self.seconds if k == kind]) for kind in sorted(kinds)}
        total = of([s for _, s in self.seconds]) if self.seconds else {}
        more = {"statuses": dict(self.statuses), "dishonest": dict(self.wrong), "jobs_accepted": len(self.accepted)}
        return {"files_per_s": round(rate, 2), **total, "by_kind": by_kind, **more}


def lost(server: Server, accepted: list[tuple[str, int]]) -> dict[str, Any]:
    """Waits for every accepted job; those that are not there, or without a row for every file, are lost."""
    gone, late, until = 0, 0, time.monotonic() + 600
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for job, files in accepted:
            while True:
                answer = client.get(f"/v1/jobs/{job}")
                found = answer.json()
                if answer.status_code != 200 or found["state"] not in ("queued", "running"):
                    break
                if time.monotonic() > until:
                    late += 1
                    break
                time.sleep(0.1)
            gone += answer.status_code != 200 or len(found["results"]) != files
    return {"accepted": len(accepted), "lost": gone, "not_finished": late}


def watch_memory(server: Server, over: threading.Event, seen: list[float]) -> None:
    while not over.wait(1.0):
        seen.append(server.memory_mb())


def with_kill(server: Server, clients: int, seconds: float, seed: int) -> dict[str, Any]:
    load, over, memory = Load(server, Mix(seed), jobs=True), threading.Event(), []
    watcher = threading.Thread(target=watch_memory, args=(server, over, memory))
    watcher.start()

    def strike() -> None:
        load.down.set()
        server.kill()
        server.start()
        time.sleep(1)
        load.down.clear()

    timer = threading.Timer(seconds / 2, strike)
    timer.start()
    rate = load.run(clients, seconds)
    timer.join()
    over.set()
    watcher.join()
    quarter = max(1, len(memory) // 8)
    after = memory[len(memory) // 2 + quarter :] or memory
    told = {
        "most": max(memory),
        "after_restart": statistics.mean(after[:quarter]),
        "at_end": statistics.mean(after[-quarter:]),
    }
    return {
        **load.summary(rate),
        "jobs": {**lost(server, load.accepted), "files": sum(files for _, files in load.accepted)},
        "memory_mb": {k: round(v) for k, v in told.items()},
    }


def schemathesis(server: Server, examples: int) -> dict[str, Any]:
    """The command line of schemathesis, so many examples an operation; its exit status and last lines."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{server.url}/openapi.json",
        "-n",
        str(examples),
    ]
    ended = subprocess.run(
        [*command, "--checks", "not_a_server_error"], capture_output=True, text=True, cwd=tempfile.gettempdir()
    )
    return {"examples": examples, "exit": ended.returncode, "said": ended.stdout.strip().splitlines()[-8:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="of the load with the kill; the others take a fifth")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--schemathesis", type=int, default=0, help="examples an operation, at the end")
    given = parser.parse_args()
    short = max(10.0, given.seconds / 5)
    result: dict[str, Any] = {"load_average_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", given.port, given.lanes)
        runs = {"one_at_a_time": (1, 2, 0.3), "all_clients": (given.clients, 3, 0.3)}
        runs |= {"one_at_a_time_no_repeats": (1, 4, 0.0), "all_clients_no_repeats": (given.clients, 5, 0.0)}
        for name, (clients, seed, again) in runs.items():
            load = Load(server, Mix(seed, again=again), jobs=False)
            result[name] = load.summary(load.run(clients, short))
            print(name, json.dumps(result[name]), flush=True)
        for end in ("", "_no_repeats"):
            one, many = (result[f"{name}{end}"]["files_per_s"] for name in ("one_at_a_time", "all_clients"))
            result[f"times{end}"] = round(many / one, 2)
        result["with_kill"] = with_kill(server, given.clients, given.seconds, seed=1)
        print("with_kill", json.dumps(result["with_kill"]), flush=True)
        if given.schemathesis:
            result["schemathesis"] = schemathesis(server, given.schemathesis)
        result["exit_at_sigterm"] = server.stop()
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }
    result |= {"facts": facts, "seconds": given.seconds, "clients": given.clients, "lanes": given.lanes}
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['times']}x, without repeats {result['times_no_repeats']}x; written to results/{OUT.name}")


if __name__ == "__main__":
    main()
