"""Training from a folder of datasets or a manifest: prepared once into OUTPUT_DIR/data, then read as any meta JSON.

The same source, choice and seed give the same bytes, so a killed run finds the data it began with. Not here: what
preparing is (``data.prepare``).
"""

from __future__ import annotations

from pathlib import Path

from internvl_detect.config import TrainConfig
from internvl_detect.data.conversations.meta import SCORED
from internvl_detect.data.folders import DONE
from internvl_detect.data.manifest import SUFFIXES
from internvl_detect.data.prepare.command import Wanted, prepare_source
from internvl_detect.data.prepare.training_set import PrepareOptions
from internvl_detect.errors import ConfigError
from internvl_detect.train.run_folder import read_json


def with_prepared_data(config: TrainConfig, *, main: bool = True) -> TrainConfig:
    """``config`` as it is where ``data_path`` is a meta JSON, or a folder that holds one; else ``config`` with the
    prepared data in its place.

    ``train_data_choice`` and ``val_data_choice`` are then read in the manner of the originals (``ps|CASIA2,FR``).
    Only the ``main`` process prepares. Raises ConfigError, DataError, OutputError.
    """
    source = Path(config.data_path)
    is_tree = source.is_dir() and not (source / "meta.json").is_file()
    if not config.data_path or not (is_tree or (source.is_file() and source.suffix.lower() in SUFFIXES)):
        return config
    out = Path(config.output_dir) / "data"
    if main:
        _prepare(config, source, out)
    datasets = read_json(out / DONE).get("datasets", {})
    training = [name for name, about in datasets.items() if about["split"] == "train"]
    validating = [n for n, about in datasets.items() if about["split"] == "val" and about["kind"] in SCORED]
    if not training:
        raise ConfigError(f"nothing of {source} is to be trained on", do="look at " + str(out / "findings.jsonl"))
    validated = ",".join(validating) if config.val_data_choice.strip() else ""
    change = {"data_path": str(out), "train_data_choice": ",".join(training), "val_data_choice": validated}
    return config.model_copy(update=change)


def _prepare(config: TrainConfig, source: Path, out: Path) -> None:
    facts = {
        "source": config.data_path,
        "train": config.train_data_choice,
        "val": config.val_data_choice,
        "seed": config.seed,
    }
    stored = read_json(out / DONE)
    if stored.get("finished") and stored.get("facts") == facts:
        return
    if stored.get("finished") and config.resume != "never" and (out.parent / "run.yaml").is_file():
        before = "; ".join(f"{key} was {value!r}" for key, value in stored.get("facts", {}).items())
        raise ConfigError(
            f"{out.parent} holds a run on other data: {before}",
            expected="the same command, to go on with it",
            do="choose another OUTPUT_DIR, or start afresh in this one with --set resume=never",
        )
    choice = "" if config.train_data_choice.strip().lower() == "all" else config.train_data_choice
    options = PrepareOptions(split={"train": 1.0}, seed=config.seed, workers=max(1, config.workers))
    prepare_source(source, out, Wanted(choice, config.val_data_choice), options, facts=facts)
