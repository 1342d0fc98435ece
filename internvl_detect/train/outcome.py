"""What a run leaves behind: the adapter or model folder with its calibration, metrics.json, and the result in Python.

Not here: training (``finetune``), the rest of the run folder (``run_folder``).
"""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from internvl_detect.config import TrainConfig
from internvl_detect.evaluate.metrics import auc_interval
from internvl_detect.model.adapter import save_adapter
from internvl_detect.model.calibration import Calibration, calibrate
from internvl_detect.model.checkpoint import LoadedModel
from internvl_detect.model.mask_files import save_mask
from internvl_detect.model.save import save_native
from internvl_detect.model.seg import parts_of
from internvl_detect.train.corpus import Encoding
from internvl_detect.train.run_folder import RunFolder, read_json, write_json, write_text
from internvl_detect.train.setup import load_model
from internvl_detect.train.trainer import put_trained
from internvl_detect.train.validation import Scored


@dataclass(frozen=True)
class RunResult:
    """What came out. ``adapter`` or ``model`` is the folder written. ``before`` and ``after`` (the best model's) are
    detection metrics on the validation choice, empty without one; ``skipped`` counts samples that could not be used.
    """

    folder: Path
    adapter: Path | None = None
    model: Path | None = None
    steps: int = 0
    train_loss: float | None = None
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    resumed_from: int = 0
    skipped: int = 0
    seconds: float = 0.0
    already_finished: bool = False

    @property
    def result(self) -> Path:
        """The adapter or, when parts of the base were trained, the whole model."""
        return self.adapter or self.model or self.folder


def gives_adapter(config: TrainConfig) -> bool:
    """Whether the result is an adapter: nothing of the base itself is trained."""
    parts = config.train
    return config.uses_lora and "full" not in (parts.language, parts.vision, parts.projector)


def fit_calibration(config: TrainConfig, scored: Scored | None) -> Calibration:
    """Fitted on the validation scores of the model that is kept; the uncalibrated default without any."""
    if scored is None:
        return Calibration(note="not calibrated: no validation choice")
    return calibrate(
        scored.scores.tolist(),
        scored.truths.tolist(),
        config.eval.target_error,
        fitted_on=f"validation choice {config.val_data_choice}",
    )


def write_weights(
    config: TrainConfig,
    folder: RunFolder,
    trainer: Any,
    loaded: LoadedModel,
    encoding: Encoding,
    calibration: Calibration,
    clips: bool = False,
    scored: Scored | None = None,
) -> Path:
    """Write adapter/ or model/ with its settings; every process must call it. Raises OutputError.

    After training on ``clips`` a clip's score is that of the prompt with all frames, as it was asked here.
    """
    settings = dataclasses.replace(
        loaded.settings,
        tiles=encoding.tiles,
        video_last_newline=encoding.video_last_newline,
        clip_score="prompt" if clips else loaded.settings.clip_score,
        share_qkv_a=loaded.settings.share_qkv_a if config.adapter_path else config.lora.share_qkv_a,
        calibration=calibration.to_dict() if calibration.fitted else None,
        base_fingerprint=loaded.fingerprint,
        base_name=loaded.name,
    )
    target = folder.file("adapter" if gives_adapter(config) else "model")
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    tensors = trainer.gathered() if sharded else {}
    if not trainer.is_world_process_zero():
        return target
    if sharded:  # into a fresh model that is whole
        model = load_model(config).model
        put_trained(model, tensors, "the trained model")
    else:
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if gives_adapter(config):
        save_adapter(model, target, settings)
        if (parts := parts_of(model)) is not None:
            if scored is not None and "pixel_threshold" in scored.pixels:
                parts.about["threshold"] = scored.pixels["pixel_threshold"]
                if parts.head.kind == "light":
                    parts.head.strength = scored.pixels["mask_strength"]
            save_mask(parts, target)
        return target
    if config.uses_lora:
        model = model.merge_and_unload()
    kind = torch.float32 if config.precision == "fp32" else torch.bfloat16
    loaded.model = model.to(device="cpu", dtype=kind)
    loaded.settings = dataclasses.replace(settings, base_fingerprint=None, base_name=None)
    shutil.rmtree(target, ignore_errors=True)
    return save_native(loaded, target)


def metrics_with_interval(scored: Scored | None) -> dict[str, Any]:
    """The metrics, and the 95 % bootstrap interval of the AUC."""
    if scored is None:
        return {}
    low, high = auc_interval(scored.scores.tolist(), scored.truths.tolist())
    return {**scored.metrics(), "auc_low": low, "auc_high": high}


def store(result: RunResult, config: TrainConfig, calibration: Calibration) -> None:
    """Write metrics.json, the last file of a run. Raises OutputError."""
    content = {k: v for k, v in dataclasses.asdict(result).items() if k not in ("folder", "adapter", "model")}
    content.pop("already_finished")
    extra = {"metric": config.eval.metric, "result": result.result.name, "calibration": calibration.to_dict()}
    write_json(result.folder / "metrics.json", {"finished": True, **content, **extra})


def stored_result(folder: RunFolder) -> RunResult:
    """The result of a run that was finished earlier."""
    said = read_json(folder.file("metrics.json"))
    fields = {f.name for f in dataclasses.fields(RunResult)} - {"folder", "adapter", "model", "already_finished"}
    values = {k: v for k, v in said.items() if k in fields}
    place = {said.get("result", "adapter"): folder.file(str(said.get("result", "adapter")))}
    return RunResult(folder.path, place.get("adapter"), place.get("model"), **values, already_finished=True)


def settle_skipped(folder: RunFolder) -> int:
    """Leaves each skipped sample once in skipped.jsonl and counts them."""
    file = folder.file("skipped.jsonl")
    if not file.is_file():
        return 0
    unique: dict[tuple[Any, Any], str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        unique.setdefault((row.get("file"), row.get("line")), line)
    write_text(file, "".join(line + "\n" for line in unique.values()))
    return len(unique)


def disk_is_full(error: BaseException) -> bool:
    """Whether a write failed for want of space, in the words of Python, safetensors or torch."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    said = str(error)
    return any(w in said for w in ("No space left", "PytorchStreamWriter failed", "unexpected pos", "os error 28"))


def in_words(result: RunResult) -> str:
    """What a training run gave, in a few lines."""

    def metrics(found: dict[str, float]) -> str:
        return f"AUC {found['auc']:.3f}, balanced accuracy {found['balanced_accuracy']:.3f}"

    lines = [f"{result.steps} steps in {result.seconds:.0f} s" + (" (finished before)" * result.already_finished)]
    if result.before.get("auc") is not None:
        lines.append(f"validation before: {metrics(result.before)}")
    if result.after.get("auc") is not None:
        lines.append(f"validation after:  {metrics(result.after)} (best at step {result.best_step})")
    if result.skipped:
        lines.append(f"{result.skipped} samples could not be used: see {result.folder / 'skipped.jsonl'}")
    settings = result.result / "ivdetect.json"
    stored = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    if note := (stored.get("calibration") or {}).get("note"):
        lines.append(f"calibration: {note}")
    return "\n".join([*lines, f"written to {result.result}"])
