"""How well the model in training detects: P(fake) of every validation sample from its first answer token.

One forward of packed rows gives the scores and the answer loss; nothing is generated. With several processes each
takes its share of the rows. Not here: the metrics (``evaluate.metrics``) and when to evaluate (``trainer``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset

from internvl_detect.evaluate.metrics import detection_summary, log_loss
from internvl_detect.model.score import p_fake
from internvl_detect.model.yes_no import yes_no_sets
from internvl_detect.train.collate import Collator
from internvl_detect.train.corpus import Corpus, Encoding
from internvl_detect.train.dataset import Rows
from internvl_detect.train.loss import answer_logits, first_answers
from internvl_detect.train.mask import PixelScores, draw, forward
from internvl_detect.train.packing import Plan, pack


@dataclass(frozen=True)
class Scored:
    """P(fake) in [0, 1] and truth (1 fake, 0 real) by sample number, and the mean answer loss in nats a token."""

    numbers: np.ndarray
    scores: np.ndarray
    truths: np.ndarray
    loss: float
    pixels: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """AUC, balanced, real and fake accuracy at 0.5, log loss of the scores, answer loss, counts."""
        scores, truths = self.scores.tolist(), self.truths.tolist()
        return {
            **detection_summary(scores, truths),
            "log_loss": log_loss(scores, truths),
            "loss": self.loss,
            **self.pixels,
        }


def validation_rows(
    corpus: Corpus, encoding: Encoding, *, max_samples: int = 0, on_broken: str = "skip", skipped_file: str = ""
) -> Rows:
    """The corpus in packed rows, in its own order, never augmented; ``max_samples`` takes so many, evenly spread."""
    n = len(corpus)
    if max_samples and max_samples < n:
        corpus.keep(np.unique(np.linspace(0, n - 1, max_samples).round().astype(np.int64)))
        n = len(corpus)
    rows: list[tuple[int, ...]] = []
    window = 256
    for start in range(0, n, window):
        packed = pack(corpus.lengths[start : start + window], encoding.max_tokens)
        rows += [tuple(start + i for i in row) for row in packed if row]
    plan = Plan(tuple(rows), 1, max(n, 1))
    return Rows(corpus, encoding, plan, augment=False, on_broken=on_broken, skipped_file=skipped_file)


STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a head that moves a map: see model.mask


class Validator:
    """Scores the rows of a validation set with whatever model it is given."""

    def __init__(
        self, rows: Rows, collator: Collator, tokenizer: Any, *, batch_rows: int = 1, workers: int = 0
    ) -> None:
        self.rows, self.collator, self.batch_rows, self.workers = rows, collator, batch_rows, workers
        self.sets = yes_no_sets(tokenizer)
        self.eyes: Any = None  # what a mask head sees with, where one is trained

    def __call__(self, model: Any, accelerator: Any) -> Scored:
        """Runs in evaluation mode and leaves the model in the mode it had."""
        world, rank = accelerator.num_processes, accelerator.process_index
        batches = [
            range(i, min(i + self.batch_rows, len(self.rows))) for i in range(0, len(self.rows), self.batch_rows)
        ]
        mine = batches[rank::world]
        rounds = -(-len(batches) // world)  # every process runs as many forwards as the busiest
        loader = DataLoader(
            Subset(self.rows, [i for batch in mine for i in batch]),
            batch_sampler=_grouped([len(b) for b in mine]),
            collate_fn=self.collator,
            num_workers=self.workers,
            generator=torch.Generator(),  # its own, so that evaluating does not change the run's random numbers
        )
        was_training, inner = model.training, accelerator.unwrap_model(model)
        model.eval()
        found: list[torch.Tensor] = []
        loss, tokens = 0.0, 0
        drawn: dict[float, PixelScores] = {}
        with torch.no_grad():
            feed = iter(loader)
            for turn in range(rounds):
                batch = next(feed) if turn < len(mine) else self.collator([[]])
                if "broken" in batch:
                    raise_broken(batch)
                batch = {k: v if k in ("segments", "masks") else v.to(accelerator.device) for k, v in batch.items()}
                if self.eyes is None:
                    logits, targets = answer_logits(model, batch)
                else:
                    logits, targets, made = forward(model, inner, batch, self.eyes)
                    for (logits_of, _, start), goal in zip(made, batch.get("masks", ()), strict=True):
                        for part in STRENGTHS if start is not None else (1.0,):
                            mixed = logits_of if start is None else start + part * (logits_of - start)
                            scores = drawn.setdefault(part, PixelScores())
                            scores.add(draw(inner, mixed, goal), goal["mask"].numpy())
                if turn >= len(mine):
                    continue
                loss += float(F.cross_entropy(logits, targets, reduction="sum"))
                tokens += int(targets.numel())
                first = first_answers(batch)
                if len(first):
                    scores = p_fake(logits[first[:, 0]], self.sets)
                    rest = first[:, 1:].double()
                    found.append(torch.cat([scores.double().reshape(-1, 1), rest], dim=1).cpu())
        model.train(was_training)
        table = torch.cat(found) if found else torch.zeros(0, 3, dtype=torch.float64)
        table, loss, tokens = _everyone(table, loss, tokens, world)
        table = table[np.argsort(table[:, 2], kind="stable")]
        return Scored(
            table[:, 2].astype(int), table[:, 0], table[:, 1].astype(int), loss / max(tokens, 1), _pixels(drawn, world)
        )


def raise_broken(batch: dict[str, Any]) -> None:
    """The error of a batch that holds a broken sample (``on_broken: error``)."""
    from internvl_detect.errors import DataError

    found, expected, do = batch["broken"][0]
    raise DataError(found, expected=expected, do=do or "correct the row, or --set on_broken=skip")


def _pixels(drawn: dict[float, PixelScores], world: int) -> dict[str, float]:
    """The figures at the strength of the head that is best for ``pixel_value``, of equals the least."""
    if world > 1:
        every: list[Any] = [None] * world
        torch.distributed.all_gather_object(every, drawn)
        drawn = {}
        for part, scores in ((k, v) for one in every for k, v in one.items()):
            drawn[part] = drawn.get(part, PixelScores()) + scores
    found = [{**scores.metrics(), "mask_strength": part} for part, scores in sorted(drawn.items())]
    found = [one for one in found if "pixel_value" in one]
    return max(found, key=lambda one: one["pixel_value"]) if found else {}


def _grouped(sizes: list[int]) -> list[list[int]]:
    ends = np.cumsum([0, *sizes])
    return [list(range(int(a), int(b))) for a, b in zip(ends, ends[1:], strict=False)]


def _everyone(table: torch.Tensor, loss: float, tokens: int, world: int) -> tuple[np.ndarray, float, int]:
    if world == 1:
        return table.numpy(), loss, tokens
    parts: list[Any] = [None] * world
    torch.distributed.all_gather_object(parts, (table.tolist(), loss, tokens))
    rows = [row for part in parts for row in part[0]]
    merged = np.asarray(rows, dtype=np.float64).reshape(-1, 3)
    return merged, sum(part[1] for part in parts), sum(part[2] for part in parts)
