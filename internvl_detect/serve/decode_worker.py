"""The process that opens strangers' files: it reads jobs from standard input and answers on standard output.

    python -m internvl_detect.serve.decode_worker MEMORY_MIB    (the server starts it)

Before the first file it gives up what it does not need: memory beyond a limit, files to write, core dumps, new
privileges and, where the kernel lets it, the network. A limit it runs into ends the process or the file, never the
server. No torch here: it starts in a fraction of a second. Not here: who decides the limits (``decoders``).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import os
import resource
import signal
import sys
import time
from typing import Any, BinaryIO

from internvl_detect.errors import EXIT_INTERNAL, IvdetectError, MediaError
from internvl_detect.media.cuts import cut_media, different_frames, open_media
from internvl_detect.media.image import Image, Limits
from internvl_detect.media.provenance import provenance_of
from internvl_detect.media.video import Clip, VideoLimits
from internvl_detect.serve import wire

PREVIEW_PX = 1024
FRAME_PX = 480
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def give_up(memory_mib: int) -> bool:
    """Set the limits of this process; True when it has no network either."""
    size = memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends its workers itself
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    alone = libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return alone


def main() -> None:
    """Answer until standard input ends."""
    alone = give_up(int(sys.argv[1]))
    source, sink = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not write into an answer
    wire.send(sink, {"ready": True, "without_network": alone})
    while (message := wire.receive(source)) is not None:
        _limit_cpu(message[0]["cpu_s"])
        try:
            decoded = decode(message[0])
        except IvdetectError as error:
            wire.send(sink, {"error": str(error), "exit_code": error.exit_code})
        except (MemoryError, RecursionError) as error:
            why = f"needs more than the decoder may use ({type(error).__name__})"
            _fail(sink, message[0], why, out_of_memory=isinstance(error, MemoryError))
        except OSError as error:
            _fail(sink, message[0], f"cannot be read ({error.strerror or type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - the next file shall not pay for it
            wire.send(sink, {"error": f"a bug in this program: {type(error).__name__}", "exit_code": EXIT_INTERNAL})
        else:
            wire.send_decoded(sink, decoded)
            del decoded


def decode(order: dict[str, Any]) -> wire.Decoded:
    """Open and cut one file. ``order`` has path, name, plan, limits and whether previews are wanted."""
    began = time.perf_counter()
    limits = Limits(order["max_bytes"], order["max_pixels"])
    clips = VideoLimits(
        max_bytes=order["max_bytes"],
        max_pixels=order["max_pixels"],
        max_duration_s=order["max_duration_s"],
        max_read_s=order["cpu_s"],
        threads=1,
    )
    plan = wire.plan_from_json(order["plan"])
    with _named(order["path"], order["name"]) as file:
        opened = open_media(file, frames=plan.frames, limits=limits, video_limits=clips, keep_bytes=True)
        decoded = time.perf_counter()
        origin = provenance_of(file, opened=opened)
    looked = time.perf_counter()
    cut = dataclasses.replace(cut_media(opened, plan), origin=origin)
    done = time.perf_counter()
    previews = _previews(opened) if order["previews"] else []
    timings = {"open_s": decoded - began, "provenance_s": looked - decoded, "tile_s": done - looked}
    return wire.Decoded(cut, previews, timings)


@contextlib.contextmanager
def _named(path: str, name: str) -> Any:
    """The file, which says the name that its owner gave it, not where it lies."""
    raw = io.FileIO(path)
    raw.name = name  # type: ignore[misc]
    with io.BufferedReader(raw) as file:
        yield file


def _previews(opened: Image | Clip) -> list[bytes]:
    from internvl_detect.report.html import thumbnail

    if isinstance(opened, Image):
        return [thumbnail(opened.rgb, PREVIEW_PX)]
    return [thumbnail(frame, FRAME_PX) for _, _, frame in different_frames(opened)]


def _limit_cpu(seconds: float) -> None:
    """This process may use ``seconds`` more; then the kernel ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))


def _fail(sink: BinaryIO, order: dict[str, Any], why: str, *, out_of_memory: bool = False) -> None:
    error = MediaError(f"{order['name']} {why}", do="use a smaller file")
    wire.send(sink, {"error": str(error), "exit_code": error.exit_code, "out_of_memory": out_of_memory})


if __name__ == "__main__":
    main()
