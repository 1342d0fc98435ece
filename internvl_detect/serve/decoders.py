"""The decoding processes: each is given one file at a time, a wall-clock limit, and a successor when it dies.

    decoders = Decoders(2, memory_mib=2048, seconds=60)
    outcome = decoders.decode(order, tile_px=448)  # blocking; call it from a thread

Not here: what they do (``decode_worker``) and what is sent (``wire``).
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from internvl_detect.errors import MediaError, ResourceError
from internvl_detect.serve import wire
from internvl_detect.verdict import Failure

FILES_A_LIFE = 2000  # then a successor: whatever a library leaks is bounded
_START_S = 60.0
_KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR")


class Decoder:
    """One process. ``ask`` gives its answer, or a Failure when it died of the file."""

    def __init__(self, memory_mib: int) -> None:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}  # no secret of the server's
        command = [sys.executable, "-m", "internvl_detect.serve.decode_worker", str(memory_mib)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
            close_fds=True,
        )
        self.files = 0
        self.worn = False  # its memory did not suffice, which may be the doing of the files before
        self.without_network = False
        hello = self._exchange(None, _START_S)
        if hello is None:
            self.end()
            raise ResourceError(
                f"a decoding process did not start with {memory_mib} MiB", do="give it more by --decode-mib"
            )
        self.without_network = bool(hello[0].get("without_network"))

    def ask(self, order: dict[str, Any], tile_px: int, seconds: float) -> wire.Decoded | Failure:
        """Decode one file; kills the process when that takes longer than ``seconds``."""
        name, self.files = order["name"], self.files + 1
        try:
            answer = self._exchange(order, seconds)
            if answer is None:
                raise wire.BadMessage("no answer")
            header, blobs = answer
            if "error" in header:
                self.worn = bool(header.get("out_of_memory")) and self.files > 1
                return Failure(name, str(header["error"])[:2000], int(header["exit_code"]))
            return wire.to_decoded(header, blobs, tile_px)
        except (wire.BadMessage, OSError, ValueError):
            self.end()
            error = MediaError(
                f"{name} ended the process that was decoding it",
                expected="a file that decodes within the limits of memory and time",
                do="check the file, or use a smaller one",
            )
            return Failure(name, str(error), error.exit_code)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        """Kill it and wait for its end."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _exchange(self, order: dict[str, Any] | None, seconds: float) -> tuple[dict[str, Any], list[bytearray]] | None:
        watch = threading.Timer(seconds, self.process.kill)
        watch.daemon = True
        watch.start()
        try:
            if order is not None:
                wire.send(self.process.stdin, order)  # type: ignore[arg-type]
            return wire.receive(self.process.stdout)  # type: ignore[arg-type]
        finally:
            watch.cancel()


class Decoders:
    """``count`` processes for as many threads. ``on_restart`` is told of every one that died of a file."""

    def __init__(self, count: int, memory_mib: int, seconds: float, on_restart: Callable[[], None] = lambda: None):
        self.memory_mib, self.seconds, self.on_restart = memory_mib, seconds, on_restart
        self._free: queue.SimpleQueue[Decoder | None] = queue.SimpleQueue()
        self._all: list[Decoder] = []
        self._lock = threading.Lock()
        self.closed = False
        self._free.put(self._new())
        for _ in range(count - 1):
            self._free.put(None)  # started by its first file

    @property
    def without_network(self) -> bool:
        """Whether the kernel took the network from the processes."""
        return self._all[0].without_network

    def decode(self, order: dict[str, Any], tile_px: int) -> wire.Decoded | Failure:
        """Decode one file in a free process; waits for one."""
        decoder = self._free.get()
        try:
            if decoder is None or not decoder.alive:
                decoder = self._new()
            answer = decoder.ask(order, tile_px, self.seconds)
            if decoder.worn:
                decoder.end()
                self._forget(decoder)
                decoder = self._new()
                answer = decoder.ask(order, tile_px, self.seconds)
            if not decoder.alive:
                self._forget(decoder)
                decoder = None
                self.on_restart()
            elif decoder.files >= FILES_A_LIFE:
                decoder.end()
                self._forget(decoder)
                decoder = None
            return answer
        finally:
            self._free.put(decoder)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self.closed = True
            for decoder in self._all:
                decoder.end()
            self._all.clear()

    def _new(self) -> Decoder:
        made = Decoder(self.memory_mib)
        with self._lock:
            self._all.append(made)
        return made

    def _forget(self, decoder: Decoder) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._all.remove(decoder)
