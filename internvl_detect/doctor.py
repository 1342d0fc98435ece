"""``ivdetect doctor``: is this machine set up right? Versions, devices, decoders, disk, and a model that answers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from internvl_detect.errors import IvdetectError

_REQUIRED = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "pillow", "av", "numpy")
_NEVER = {
    "torchvision": "its presence changes which image processor transformers loads and can break the import of InternVL",
}


def examine(model: str, adapter: str | None, *, as_json: bool) -> int:
    """Run all checks, print them, and give 0 when all is well, else 1. A check never raises."""
    checks: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("python", _python),
        *((name, lambda name=name: _package(name)) for name in _REQUIRED),  # type: ignore[misc]
        *((name, lambda name=name: _absent(name)) for name in _NEVER),  # type: ignore[misc]
        ("device", _device),
        ("memory and disk", _room),
        ("decoders", _decoders),
        ("model", lambda: _answers(model, adapter)),
    ]
    found = []
    for name, check in checks:
        try:
            state, said = check()
        except IvdetectError as error:
            state, said = "bad", str(error)
        except Exception as error:  # noqa: BLE001 - a broken installation can raise anything
            state, said = "bad", f"{type(error).__name__}: {error}"
        found.append({"check": name, "state": state, "said": said})
        if not as_json:
            print(f"{ {'ok': 'ok  ', 'warn': 'note', 'bad': 'BAD '}[state] }  {name:<16} {said}")
    bad = [f for f in found if f["state"] == "bad"]
    if as_json:
        print(json.dumps({"ok": not bad, "checks": found}))
    elif bad:
        print(f"{len(bad)} of {len(found)} checks failed", file=sys.stderr)
    return 1 if bad else 0


def _python() -> tuple[str, str]:
    good = sys.version_info >= (3, 11)
    return "ok" if good else "bad", f"{platform.python_version()}" + ("" if good else "; 3.11 or later is needed")


def _package(name: str) -> tuple[str, str]:
    return "ok", importlib.metadata.version(name)


def _absent(name: str) -> tuple[str, str]:
    if importlib.util.find_spec(name) is None:
        return "ok", "absent, as it should be"
    return "bad", f"installed: {_NEVER[name]}; pip uninstall {name}"


def _device() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        each = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return "ok", ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in each)
    return "ok", f"CPU, {torch.get_num_threads()} threads; InternVL2-8B needs a GPU with about 20 GiB for comfort"


def _room() -> tuple[str, str]:
    disk = shutil.disk_usage(".").free / 2**30
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "ok" if disk > 1 else "warn", f"{memory:.0f} GiB of memory, {disk:.0f} GiB free on this disk"


def _decoders() -> tuple[str, str]:
    import av
    from PIL import features

    codecs = [name for name in ("h264", "hevc", "vp9", "av1") if name in av.codecs_available]
    pictures = [name for name in ("jpg", "webp", "avif") if features.check(name)]
    heic = "heic" if importlib.util.find_spec("pillow_heif") else "no heic (pip install 'internvl2-8bdetect[heic]')"
    return "ok" if len(codecs) >= 2 else "warn", f"clips: {', '.join(codecs)}; pictures: {', '.join(pictures)}, {heic}"


def _answers(model: str, adapter: str | None) -> tuple[str, str]:
    import io

    from PIL import Image

    from internvl_detect.detect.detector import Detector

    began = time.perf_counter()
    detector = Detector.from_pretrained(model, adapter)
    loaded_s = time.perf_counter() - began
    grey: Any = io.BytesIO()
    Image.new("RGB", (64, 64), (120, 130, 140)).save(grey, "PNG")
    verdict = detector.detect(grey.getvalue())
    about = f" ({detector.loaded.settings.about})" if detector.loaded.settings.about else ""
    count = sum(p.numel() for p in detector.loaded.model.parameters())
    return "ok", (
        f"{verdict.model}{about}: {count / 1e6:.1f} M parameters, loaded in {loaded_s:.1f} s, "
        f"answered in {verdict.timings['total_s']:.2f} s, {'calibrated' if verdict.calibrated else 'not calibrated'}"
    )
