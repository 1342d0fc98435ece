"""The folder of a run: what it holds, whether a run in it may go on, and its newest whole checkpoint.

    run.yaml  run.json  train_log.jsonl  skipped.jsonl  metrics.json  checkpoint-N/  adapter/ (or model/)

A checkpoint counts only once its last file, ``complete.json``, is there. Not here: training itself (``finetune``).
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from internvl_detect import __version__
from internvl_detect.config import HARMLESS, TrainConfig
from internvl_detect.data.jsonl import atomically
from internvl_detect.errors import ConfigError, OutputError

COMPLETE = "complete.json"
_OURS = ("run.yaml", "run.json", "train_log.jsonl", "skipped.jsonl", "metrics.json", "adapter", "model", "tensorboard")
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy", "pillow")


@dataclass(frozen=True)
class RunFolder:
    """An opened run folder; ``checkpoint`` is where to go on from (None: from the start)."""

    path: Path
    checkpoint: Path | None = None
    finished: bool = False

    def file(self, name: str) -> Path:
        """A file of the run by its name."""
        return self.path / name


def open_run(config: TrainConfig, manifest: dict[str, str], *, main: bool = True) -> RunFolder:
    """Make or reopen ``output_dir``. ``manifest``: sha256 of the training and the validation data.

    A folder of a run with other settings or other data is refused with what differs, unless ``resume`` is "never",
    which clears it first. Only the ``main`` process writes. Raises ConfigError, OutputError.
    """
    path = Path(config.output_dir)
    if not main:
        return RunFolder(path, newest_complete(path), _finished(path))
    try:
        path.mkdir(parents=True, exist_ok=True)
        if config.resume == "never":
            _clear(path)
        elif (path / "run.yaml").is_file():
            _same_run(path, config, manifest)
        elif any(path.glob("checkpoint-*")):
            raise ConfigError(
                f"{path} holds checkpoints but no run.yaml",
                expected="a new folder, or one of an earlier run of this program",
                do="choose another OUTPUT_DIR",
            )
        drop_incomplete(path)
        if newest_complete(path) is None and not _finished(path):
            (path / "skipped.jsonl").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be used as output_dir ({error.strerror})", do="choose another one") from None
    write_text(path / "run.yaml", config.to_yaml())
    return RunFolder(path, newest_complete(path), _finished(path))


def drop_incomplete(path: Path) -> None:
    """Removes checkpoints that a kill or a full disk left half-written."""
    for folder in _checkpoints(path):
        if not (folder / COMPLETE).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def newest_complete(path: Path) -> Path | None:
    """The whole checkpoint with the highest step; None when there is none."""
    return next((c for c in reversed(_checkpoints(path)) if (c / COMPLETE).is_file()), None)


def mark_complete(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Says that everything of a checkpoint is written. Raises OutputError."""
    write_json(checkpoint / COMPLETE, facts)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all. Raises OutputError."""
    with atomically(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, whole or not at all; NaN becomes null. Raises OutputError."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} when the file is not there or not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def plain(value: Any) -> Any:
    """Numbers that JSON has: NaN and infinities as None, numpy and torch scalars as Python's."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def cut_log(path: Path, step: int) -> None:
    """Leaves the lines of a JSONL log up to ``step``: what came later is about to be done again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line).get("step", 0) <= step:
                kept.append(line)
        except (ValueError, AttributeError):
            continue  # the line that a kill cut in two
    write_text(path, "".join(line + "\n" for line in kept))


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that decide the numbers."""
    out = {"internvl2-8bdetect": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def _checkpoints(path: Path) -> list[Path]:
    found = [
        (int(m.group(1)), p) for p in path.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
    ]
    return [p for _, p in sorted(found) if p.is_dir()]


def _finished(path: Path) -> bool:
    return bool(read_json(path / "metrics.json").get("finished"))


def _clear(path: Path) -> None:
    for folder in _checkpoints(path):
        shutil.rmtree(folder)
    for name in _OURS:
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            os.unlink(target)


def _same_run(path: Path, config: TrainConfig, manifest: dict[str, str]) -> None:
    try:
        stored = yaml.safe_load((path / "run.yaml").read_text(encoding="utf-8"))
    except yaml.YAMLError:
        stored = None
    stored = stored if isinstance(stored, dict) else {}
    old, new = _flat(stored), _flat(config.to_dict())
    ignored = (*HARMLESS, "output_dir")
    changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k) and k.split(".")[0] not in ignored]
    said = [f"{k} was {old.get(k)!r} and is {new.get(k)!r}" for k in changed]
    before = read_json(path / "run.json").get("manifest") or {}
    said += [f"the {k} data has changed" for k, v in manifest.items() if before.get(k, v) != v]
    if said:
        raise ConfigError(
            f"{path} holds a run with other settings: {'; '.join(said[:5])}{' ...' if len(said) > 5 else ''}",
            expected="the same command, to go on with it",
            do="choose another OUTPUT_DIR, or start afresh in this one with --set resume=never (clears it)",
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out
