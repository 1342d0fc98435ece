"""Uploads that no client would make, against a running ``ivdetect serve``, for a time: it must stay up and be honest.

Samples in eight formats are changed (bytes flipped, cut, repeated, spliced with another format, headers set to extreme
numbers) and sent as bodies, as forms with broken boundaries, names and lengths, with odd options. After each answer the
status must be one the documents name, after every hundred the server must be the same process and judge a sound
picture. Prints and stores what was sent and answered; exit code 1 when anything was not so.

    python benchmarks/fuzz_upload.py --seconds 600 --out results/fuzz_upload.json
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from serve import CLIP, PICTURES, Server

NAMED = {200, 202, 400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 421, 422, 429, 504}
NAMES = ["a.jpg", "../../etc/passwd", "a\0b.png", "<script>.jpg", "x" * 5000, "", "\u202egpj.exe", "clip.mp4", "CON"]
OPTIONS = ["", "explain=true", "mask=1", "frames=0", "frames=-1", "frames=99999", "language=xx", "explain=maybe"]
OPTIONS += ["mask=1&mask=0", "name=" + "n" * 300, "%00=1", "frames=4&language=zh"]


def sounds() -> list[bytes]:
    """One small file in each format."""
    small = Image.open(io.BytesIO(PICTURES[0])).convert("RGB").resize((160, 120))
    made = [CLIP]
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        out = io.BytesIO()
        small.save(out, kind)
        made.append(out.getvalue())
    return made


def changed(draw: random.Random, files: list[bytes]) -> bytes:
    """One of the files after one to five changes."""
    data = bytearray(draw.choice(files))
    for _ in range(draw.randint(1, 5)):
        at, how = draw.randrange(len(data)), draw.randrange(7)
        if how == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            data[at : at + 4] = draw.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
        elif how == 2:
            del data[at:]
        elif how == 3:
            data[at:at] = data[at : at + draw.randint(1, 4096)]
        elif how == 4:
            del data[at : at + draw.randint(1, 512)]
        elif how == 5:
            other = draw.choice(files)
            data[at:] = other[draw.randrange(len(other)) :]
        else:
            at = draw.randrange(min(64, len(data)))  # headers are at the beginning
            data[at : at + 2] = draw.randbytes(2)
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def request(draw: random.Random, files: list[bytes]) -> dict[str, Any]:
    """Method, path, body and headers of one upload."""
    path = draw.choice(["/v1/detect", "/v1/detect", "/v1/detect", "/v1/jobs"]) + "?" + draw.choice(OPTIONS)
    body, kind = (
        changed(draw, files),
        draw.choice(["image/jpeg", "video/mp4", "application/octet-stream", "text/x", ""]),
    )
    if draw.random() < 0.5:
        edge = draw.choice(["edge", "e" * 70, "é", ""])
        parts = [draw.choice(NAMES) for _ in range(draw.randint(1, 4))]
        form = b""
        for name in parts:
            head = (
                f'--{edge}\r\nContent-Disposition: form-data; name="{draw.choice(["files", "x"])}"; filename="{name}"'
            )
            form += head.encode() + b"\r\n\r\n" + changed(draw, files) + b"\r\n"
        body = form + (f"--{edge}--\r\n".encode() if draw.random() < 0.8 else b"")
        kind = f"multipart/form-data; boundary={edge}" if draw.random() < 0.9 else "multipart/form-data"
        if draw.random() < 0.2:
            body = body[: draw.randrange(len(body))]
    return {"url": path, "content": body, "headers": {b"content-type": kind.encode()}}


def main() -> None:
    """Send until the time is over, from a few threads; a sound picture in between."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--port", type=int, default=8766)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "fuzz_upload.json")
    args = parser.parse_args()
    files, statuses, wrong, lock = sounds(), Counter[str](), list[str](), threading.Lock()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), args.port, lanes=1)
        until = time.monotonic() + args.seconds

        def send(seed: int) -> None:
            draw = random.Random(seed)
            with httpx.Client(base_url=server.url, timeout=120) as client:
                for turn in range(10**9):
                    if time.monotonic() > until:
                        return
                    asked = request(draw, files)
                    try:
                        answer = str(client.post(**asked).status_code)
                    except httpx.HTTPError as error:
                        answer = type(error).__name__
                    with lock:
                        statuses[answer] += 1
                        if not answer.isdigit() or int(answer) not in NAMED:
                            wrong.append(f"client {seed}, request {turn}: {answer}")
                    if turn % 100 == 99:
                        sound = client.post("/v1/detect", content=PICTURES[0], headers={"content-type": "image/jpeg"})
                        with lock:
                            if sound.status_code not in (200, 429) or server.process.poll() is not None:
                                wrong.append(f"after {turn}: a sound picture got {sound.status_code}")

        threads = [threading.Thread(target=send, args=(seed,)) for seed in range(args.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        alive = server.process.poll() is None
        result = {
            "seconds": args.seconds,
            "requests": sum(statuses.values()),
            "answers": dict(sorted(statuses.items())),
            "same_process_at_the_end": alive,
            "exit_code_on_sigterm": server.stop() if alive else None,
            "wrong": wrong[:50],
            "n_wrong": len(wrong),
        }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    raise SystemExit(bool(wrong) or not alive)


if __name__ == "__main__":
    main()
