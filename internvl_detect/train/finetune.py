"""Fine-tune InternVL2: from a TrainConfig to an adapter folder (or a model folder, where the base itself is trained).

    ivdetect train --config recipes/internvl2_8b_lora.yaml --set output_dir=runs/mine
    torchrun --nproc_per_node 8 -m internvl_detect.cli train --config recipes/internvl2_8b_lora.yaml

The same command goes on where a killed run stopped. Not here: settings (``config``), the model and the Trainer's
arguments (``setup``), files (``run_folder``, ``outcome``).
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

from internvl_detect.config import TrainConfig
from internvl_detect.errors import DataError, IvdetectError, OutputError
from internvl_detect.model.adapter import trainable_parameters
from internvl_detect.model.checkpoint import LoadedModel
from internvl_detect.model.seg import seg_id
from internvl_detect.train import outcome, run_folder
from internvl_detect.train.callbacks import Checkpoints, EarlyStop, LogFile, Progress
from internvl_detect.train.collate import Collator
from internvl_detect.train.corpus import Corpus, Encoding, open_corpus, overlap
from internvl_detect.train.dataset import Rows, append_line
from internvl_detect.train.outcome import RunResult
from internvl_detect.train.packing import plan_run
from internvl_detect.train.prepared import with_prepared_data
from internvl_detect.train.run_folder import RunFolder
from internvl_detect.train.setup import (
    check_environment,
    greater_is_better,
    load_model,
    mask_parts,
    memory_advice,
    training_arguments,
    workers_of,
)
from internvl_detect.train.trainer import DetectionTrainer
from internvl_detect.train.validation import Validator, validation_rows

__all__ = ["RunResult", "run"]
LAYOUT: dict[str, Any] = {"sdpa": "segments", "flash_attention_2": "flat", "eager": "rows"}


def run(config: TrainConfig) -> RunResult:
    """Train as ``config`` says. Under torchrun every process calls this.

    Raises an IvdetectError for everything a user can set right: settings, data, memory, disk.
    """
    check_environment(config)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # libraries about each other's next version
            disable_progress_bar()  # theirs; ours is one line
            return _run(config)
    except IvdetectError:
        raise
    except Exception as error:
        if (advice := memory_advice(config, error)) is not None:
            raise advice from error
        if outcome.disk_is_full(error):
            run_folder.drop_incomplete(Path(config.output_dir))
            raise OutputError(
                f"{config.output_dir} could not be written ({str(error)[:160]})",
                do="free disk space and run the same command again: it goes on from the newest whole checkpoint",
            ) from error
        raise


def _run(config: TrainConfig) -> RunResult:
    began = time.monotonic()
    state = PartialState(cpu=not torch.cuda.is_available())
    main, world = state.is_main_process, state.num_processes
    data = with_prepared_data(config) if main else config
    state.wait_for_everyone()
    data = data if main else with_prepared_data(config, main=False)
    corpus = open_corpus(data, data.train_data_choice, seed=config.seed, without=data.val_data_choice)
    validates = bool(data.val_data_choice.strip())
    checked = open_corpus(data, data.val_data_choice, seed=config.seed, split="val") if validates else None
    manifest = {"training": corpus.manifest} | ({"validation": checked.manifest} if checked else {})
    folder = run_folder.open_run(config, manifest) if main else None
    state.wait_for_everyone()
    folder = folder or run_folder.open_run(config, manifest, main=False)
    if folder.finished:
        _say(main, f"{folder.path} holds this run, finished: nothing to do (--set resume=never starts afresh)")
        return outcome.stored_result(folder)
    resumed = int(folder.checkpoint.name.rpartition("-")[2]) if folder.checkpoint else 0
    if main:
        run_folder.cut_log(folder.file("train_log.jsonl"), resumed)
    set_seed(config.seed)
    loaded = load_model(config)
    encoding = Encoding.of(config, loaded.tokenizer, loaded.tokens_per_tile, loaded.tile_px)
    eyes = mask_parts(config, loaded)
    encoding = dataclasses.replace(
        encoding, system=loaded.settings.system_message, seg_id=seg_id(loaded) if eyes else None
    )
    for part in filter(None, (corpus, checked)):
        _scan(part, encoding, config, folder, main)
    if checked is not None and (shared := overlap(corpus, checked)):
        _say(main, f"warning: training and validation share {shared}, so the validation flatters")
    collator = Collator(
        pad_id=loaded.need_tokenizer().pad_token_id or 0,
        image_token_id=loaded.config.image_token_id,
        tokens_per_tile=loaded.tokens_per_tile,
        tile_px=loaded.tile_px,
        layout=LAYOUT[config.attention],
        with_pictures=world > 1,
    )
    trainer = _trainer(config, folder, loaded, encoding, corpus, checked, collator, world, resumed, eyes)
    facts = _facts(config, loaded, corpus, checked, manifest, trainer.train_dataset.plan, world)
    if main:
        run_folder.write_json(folder.file("run.json"), facts)
    _say(main, _summary(facts, resumed))
    output = trainer.train(resume_from_checkpoint=str(folder.checkpoint) if folder.checkpoint else None)
    scored = trainer.validator(trainer.model_wrapped, trainer.accelerator) if trainer.validator else None
    calibration = outcome.fit_calibration(config, scored)
    written = outcome.write_weights(config, folder, trainer, loaded, encoding, calibration, corpus.clips > 0, scored)
    history = trainer.state.log_history
    losses = [row["loss"] for row in history if "loss" in row]
    start = next((row for row in history if row.get("step") == 0 and "eval_auc" in row), {})
    best = trainer.state.best_model_checkpoint
    result = RunResult(
        folder=folder.path,
        adapter=written if outcome.gives_adapter(config) else None,
        model=None if outcome.gives_adapter(config) else written,
        steps=int(output.global_step),
        train_loss=sum(losses) / len(losses) if losses else None,
        before={k.removeprefix("eval_"): v for k, v in start.items() if k.startswith("eval_")},
        after=outcome.metrics_with_interval(scored),
        best_step=int(Path(best).name.rpartition("-")[2]) if best else None,
        resumed_from=resumed,
        skipped=outcome.settle_skipped(folder) if main else 0,
        seconds=round(time.monotonic() - began, 2),
    )
    if main:
        outcome.store(result, config, calibration)
    state.wait_for_everyone()
    return result


def _trainer(
    config: TrainConfig,
    folder: RunFolder,
    loaded: LoadedModel,
    encoding: Encoding,
    corpus: Corpus,
    checked: Corpus | None,
    collator: Collator,
    world: int,
    resumed: int,
    eyes: Any = None,
) -> DetectionTrainer:
    plan = plan_run(
        corpus.lengths,
        batch_size=config.batch_size,
        max_tokens=config.max_tokens,
        epochs=config.epochs,
        max_steps=config.max_steps,
        seed=config.seed,
        row_multiple=config.per_device_batch_size * world,
        packing=config.packing,
        group_by_length=config.group_by_length,
    )
    listed: dict[str, Any] = {"on_broken": config.on_broken, "skipped_file": str(folder.file("skipped.jsonl"))}
    validator, val_rows = None, None
    if checked is not None:
        val_rows = validation_rows(checked, encoding, max_samples=config.eval.max_samples, **listed)
        rows_at_once = config.per_device_batch_size
        validator = Validator(val_rows, collator, loaded.tokenizer, batch_rows=rows_at_once, workers=workers_of(config))
        validator.eyes = eyes
    arguments = training_arguments(config, plan, folder.path, world, validator is not None)
    arguments.eval_on_start = validator is not None and resumed == 0
    callbacks: list[Any] = [
        Checkpoints({"fingerprint": config.fingerprint(), "processes": world}),
        LogFile(folder.file("train_log.jsonl"), plan.epochs),
        Progress(config.eval.metric),
    ]
    if config.eval.patience and validator is not None:
        callbacks.append(EarlyStop(config.eval.metric, config.eval.patience, greater_is_better(config)))
    if config.tensorboard and arguments.process_index == 0:
        callbacks += _tensorboard(folder)
    trainer = DetectionTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=Rows(corpus, encoding, plan, seed=config.seed, **listed),
        eval_dataset=val_rows,
        data_collator=collator,
        callbacks=callbacks,
        validator=validator,
        lr_scale=config.lr_scale,
        mask=config.mask,
        eyes=eyes,
        verdict_weight=config.verdict_weight,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _scan(corpus: Corpus, encoding: Encoding, config: TrainConfig, folder: RunFolder, main: bool) -> None:
    """Measure the corpus, list what is broken, refuse a corpus with nothing left."""
    total = len(corpus)
    many = main and total > 20_000
    corpus.scan(encoding, on_broken=config.on_broken, progress=lambda n: _say(many, f"{n} of {total} samples measured"))
    for problem in corpus.problems if main else ():
        append_line(str(folder.file("skipped.jsonl")), problem.to_dict())
    if not len(corpus):
        first = f"; the first: {corpus.problems[0].problem}" if corpus.problems else ""
        raise DataError(
            f"none of {total} samples of {', '.join(e.name for e in corpus.entries)} can be used{first}",
            do="run `ivdetect data check` on the meta JSON",
        )
    if corpus.problems:
        _say(main, f"{len(corpus.problems)} of {total} samples left out, listed in {folder.file('skipped.jsonl')}")


def _facts(
    config: TrainConfig,
    loaded: LoadedModel,
    corpus: Corpus,
    checked: Corpus | None,
    manifest: dict[str, str],
    plan: Any,
    world: int,
) -> dict[str, Any]:
    """What run.json says: data, versions, base, sizes, machine."""
    return {
        "manifest": manifest,
        "versions": run_folder.versions(),
        "base": {"name": loaded.name, "fingerprint": loaded.fingerprint, "form": loaded.form},
        "samples": len(corpus),
        "clips": corpus.clips,
        "validation_samples": len(checked) if checked else 0,
        "shared_with_validation": overlap(corpus, checked) if checked else "",
        "tokens": int(corpus.lengths.sum()),
        "steps": plan.steps,
        "batch_size": config.batch_size,
        "rows_per_step": plan.rows_per_step,
        "trainable_parameters": trainable_parameters(loaded.model),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "processes": world,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _summary(facts: dict[str, Any], resumed: int) -> str:
    said = (
        f"{facts['samples']} samples, {facts['steps']} steps of {facts['batch_size']} samples in "
        f"{facts['rows_per_step']} rows; "
        f"{facts['trainable_parameters']:,} of {facts['parameters']:,} parameters trained on {facts['processes']} x "
        f"{facts['device']}"
    )
    return said + (f"; going on from step {resumed}" if resumed else "")


def _tensorboard(folder: RunFolder) -> list[Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return []
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(log_dir=str(folder.file("tensorboard"))))]


def _say(main: bool, text: str) -> None:
    if main:
        print(text, file=sys.stderr, flush=True)
