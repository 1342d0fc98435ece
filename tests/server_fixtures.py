"""Servers for tests: one within the process, on a real port, and one of its own process that can be killed."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from internvl_detect.detect.detector import Detector
from internvl_detect.serve.app import Listener, config_of, create_app
from internvl_detect.serve.settings import Settings

SAMPLES = Path(__file__).parents[1] / "internvl_detect" / "embedded" / "samples"


@cache
def nano() -> Detector:
    return Detector.from_pretrained("nano")


class Gate:
    """A detector that judges only while the gate is open, and counts what it judged."""

    def __init__(self, detector: Detector | None = None) -> None:
        self.of = detector or nano()
        self.open = threading.Event()
        self.entered = threading.Event()
        self.judged: list[int] = []
        self.detector = copy.copy(self.of)
        self.detector.judge = self._judge  # type: ignore[method-assign]

    def _judge(self, jobs: Any, wanted: Any) -> Any:
        self.entered.set()
        assert self.open.wait(60)
        self.judged.append(len(jobs))
        return self.of.judge(jobs, wanted)


@contextlib.contextmanager
def live(folder: Path, gate: Gate | None = None, **settings: Any) -> Iterator[httpx.Client]:
    """A server on a free port of this machine; gives a client for it, whose ``server`` is its state."""
    made = Settings(folder, port=0, **settings)
    app = create_app(made, lambda: gate.detector if gate else nano())
    config = config_of(app, made)
    listener = Listener(config, app.state.server)
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        while not (listener.started and listener.servers):
            assert thread.is_alive()
            time.sleep(0.01)
        port = listener.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            client.server, client.port = app.state.server, port  # type: ignore[attr-defined]
            wait_ready(client)
            yield client
    finally:
        if gate:
            gate.open.set()
        listener.should_exit = True
        thread.join(60)


def wait_ready(client: httpx.Client, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")


class Process:
    """``ivdetect serve`` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "internvl_detect.cli", "serve", "--port", "0", "--data-dir", str(folder)]
        root = str(Path(__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=env)
        assert self.process.stderr is not None
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if found := re.match(r"listening on (http://\S+)", line):
                self.client = httpx.Client(base_url=found[1], timeout=60)
                break
        else:
            raise AssertionError(self.said)
        wait_ready(self.client)

    def kill(self, how: int = signal.SIGKILL) -> int:
        self.process.send_signal(how)
        code = self.process.wait(60)
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        self.process.stderr.close()
        self.client.close()
        return code


def finished(client: httpx.Client, job: str, seconds: float = 60) -> dict[str, Any]:
    """The job, once it is finished."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = client.get(f"/v1/jobs/{job}").json()
        if found["state"] not in ("queued", "running"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not finished: {found}")


def part(name: str, data: bytes) -> tuple[str, tuple[str, bytes]]:
    """One file of a form for httpx."""
    return "files", (name, data)


def emptied(folder: Path, seconds: float = 10) -> bool:
    """Whether a folder becomes empty: what was given up is cleared away a moment later."""
    until = time.monotonic() + seconds
    while any(folder.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(folder.iterdir())
