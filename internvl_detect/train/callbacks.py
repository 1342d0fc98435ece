"""What a run writes down and shows: a JSONL log, a progress line with the time left, whole checkpoints, an early end.

Not here: the numbers themselves (``trainer``, ``validation``).
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from internvl_detect.errors import ConfigError
from internvl_detect.train.dataset import append_line
from internvl_detect.train.run_folder import mark_complete, plain

_KEPT = ("loss", "grad_norm", "learning_rate")


class LogFile(TrainerCallback):
    """train_log.jsonl: a line per log with step, epoch, loss, learning_rate or eval_..., and seconds since the start.

    Stops the run at a loss that is no number: what follows would be noise. ``epochs`` is the run's length in epochs.
    """

    def __init__(self, path: Path, epochs: float) -> None:
        self.path, self.epochs, self.began = path, epochs, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        kept = {k: v for k, v in (logs or {}).items() if k in _KEPT or k.startswith("eval_")}
        if not kept:
            return
        if state.is_world_process_zero:
            epoch = self.epochs * state.global_step / max(state.max_steps, 1)
            row = {"step": state.global_step, "epoch": round(epoch, 4), **kept}
            append_line(str(self.path), plain({**row, "time_s": round(time.monotonic() - self.began, 2)}))
        if "loss" in kept and not math.isfinite(kept["loss"]):
            raise ConfigError(
                f"the loss is {kept['loss']} at step {state.global_step}",
                expected="a number",
                do="lower learning_rate, or use precision bf16 instead of fp16",
            )


class Progress(TrainerCallback):
    """One line on stderr: steps, time left, loss, best metric."""

    def __init__(self, metric: str) -> None:
        self.metric, self.bar, self.shown = metric, None, {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from tqdm import tqdm

        if state.is_world_process_zero:
            pause = 0.5 if sys.stderr.isatty() else 10.0  # seconds between two looks: a log file is no terminal
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, file=sys.stderr, desc="train", mininterval=pause
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        for key in ("loss", f"eval_{self.metric}"):
            if logs and key in logs:
                self.shown[key.removeprefix("eval_")] = f"{logs[key]:.4f}"
        if self.bar is not None:
            self.bar.set_postfix(self.shown, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class Checkpoints(TrainerCallback):
    """A checkpoint at every evaluation too, so that the best one is there; a log line before each, so that a resumed
    run logs the same losses; and the mark that a checkpoint is whole. ``facts`` are stored in the mark."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = True
        if control.should_evaluate:
            control.should_save = True
        if control.should_save:
            control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            mark_complete(folder, {"step": state.global_step, **self.facts})


class EarlyStop(TrainerCallback):
    """Ends the run after ``patience`` evaluations in a row without a better metric; reads the log, so it resumes."""

    def __init__(self, metric: str, patience: int, greater_is_better: bool) -> None:
        self.key, self.patience, self.sign = f"eval_{metric}", patience, 1 if greater_is_better else -1

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        values = [row[self.key] for row in state.log_history if self.key in row and row.get("step", 0) > 0]
        values = [self.sign * v if math.isfinite(v) else -math.inf for v in values]
        if values and len(values) - 1 - values.index(max(values)) >= self.patience:
            control.should_training_stop = True
