"""Claims about runs that are cut off: the same command goes on to the same losses, and nothing whole is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import FULL, log_of, losses

from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.train import callbacks, finetune, run_folder

pytest_plugins = ["training_fixtures"]


class Killed(Exception):
    """Stands for a kill in the middle of a step."""


def run_killed_at(config, step, monkeypatch):
    def kill(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Checkpoints, "on_step_begin", kill)
        with pytest.raises(Killed):
            finetune.run(config)


@pytest.mark.parametrize(
    "sets",
    [
        ["val_data_choice=held", "lora.dropout=0.2"],
        [*FULL, "val_data_choice=held", "lr_scale.vision=0.5"],
        ["train.projector=full", "train.vision=lora", "lora.share_qkv_a=false", "gradient_checkpointing=true"],
        ["train_data_choice=all", "packing=false", "per_device_batch_size=2", "workers=1"],
    ],
    ids=["lora", "full", "mixed", "unpacked"],
)
def test_a_killed_run_goes_on_to_the_same_losses(settings_of, monkeypatch, sets):
    straight = finetune.run(settings_of(*sets, out="straight"))
    config = settings_of(*sets, out="killed")
    run_killed_at(config, 4, monkeypatch)
    went_on = finetune.run(config)
    assert went_on.resumed_from in (3, 4) and straight.resumed_from == 0
    assert log_of(straight.folder) == log_of(went_on.folder)
    assert len(losses(went_on.folder)) == 6
    assert straight.after == went_on.after and straight.best_step == went_on.best_step


def test_a_run_killed_by_the_system_goes_on_to_the_same_losses(settings_of, place, tmp_path):
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from internvl_detect.train import callbacks, finetune\n"
        "from internvl_detect.config import load_train_config\n"
        "def kill(self, args, state, control, **kwargs):\n"
        "    if state.global_step == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "callbacks.Checkpoints.on_step_begin = kill\n"
        "finetune.run(load_train_config(sys.argv[2], [], {}))\n"
    )
    config = settings_of()
    (tmp_path / "recipe.yaml").write_text(config.to_yaml())
    ended = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "recipe.yaml")], capture_output=True
    )
    assert ended.returncode == -9, ended.stderr.decode()
    went_on = finetune.run(config)
    assert went_on.resumed_from == 3
    straight = finetune.run(settings_of(out="straight"))
    assert losses(went_on.folder) == pytest.approx(losses(straight.folder), abs=1e-6)


def test_a_finished_run_is_not_done_again(settings_of):
    config = settings_of()
    first = finetune.run(config)
    stamp = (first.folder / "train_log.jsonl").stat().st_mtime_ns
    again = finetune.run(config)
    assert again.already_finished and again.steps == 6 and again.adapter == first.adapter
    assert (first.folder / "train_log.jsonl").stat().st_mtime_ns == stamp


def test_other_settings_or_data_in_the_same_folder_are_refused_with_what_differs(settings_of, place, monkeypatch):
    run_killed_at(settings_of(), 4, monkeypatch)
    with pytest.raises(ConfigError) as caught:
        finetune.run(settings_of("learning_rate=5e-4", "seed=1"))
    said = str(caught.value)
    assert "learning_rate was 0.001 and is 0.0005" in said and "seed" in said and "resume=never" in said
    rows = (place / "data" / "pictures.jsonl").read_text()
    try:
        (place / "data" / "pictures.jsonl").write_text(rows.replace("No.", "No!"))
        with pytest.raises(ConfigError, match="training data has changed"):
            finetune.run(settings_of())
    finally:
        (place / "data" / "pictures.jsonl").write_text(rows)


def test_what_saves_memory_may_change_in_the_middle_of_a_run(settings_of, monkeypatch):
    run_killed_at(settings_of("lora.dropout=0", "per_device_batch_size=2"), 4, monkeypatch)
    went_on = finetune.run(settings_of("lora.dropout=0", "gradient_checkpointing=true"))
    straight = finetune.run(settings_of("lora.dropout=0", out="straight"))
    assert went_on.resumed_from == 3
    assert losses(went_on.folder) == pytest.approx(losses(straight.folder), abs=2e-6)


def test_resume_never_starts_afresh_in_the_same_folder(settings_of, monkeypatch):
    run_killed_at(settings_of(), 4, monkeypatch)
    result = finetune.run(settings_of("resume=never", "seed=3"))
    assert result.resumed_from == 0 and len(losses(result.folder)) == 6


def test_a_half_written_checkpoint_is_passed_over(settings_of, monkeypatch):
    config = settings_of("save_steps=2")
    run_killed_at(config, 5, monkeypatch)
    folder = Path(config.output_dir)
    assert run_folder.newest_complete(folder).name == "checkpoint-4"
    (folder / "checkpoint-4" / run_folder.COMPLETE).unlink()
    (folder / "checkpoint-4" / "optimizer.pt").write_bytes(b"half")
    result = finetune.run(config)
    assert result.resumed_from == 2
    straight = finetune.run(settings_of("save_steps=2", out="straight"))
    assert losses(result.folder) == losses(straight.folder)


def test_an_output_folder_that_cannot_be_made_is_named(settings_of, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file/run cannot be used"):
        finetune.run(settings_of(f"output_dir={tmp_path / 'file' / 'run'}"))


def test_a_full_disk_says_so_and_leaves_the_earlier_checkpoint_to_go_on_from(settings_of, monkeypatch):
    import errno

    from internvl_detect.train import trainer

    config = settings_of("save_steps=2")
    save = trainer.save_file

    def full(values, path, *rest):
        if "checkpoint-4" in path:
            Path(path).write_bytes(b"begun")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(values, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_file", full)
        with pytest.raises(OutputError, match="Free disk space"):
            finetune.run(config)
    assert not (Path(config.output_dir) / "checkpoint-4").exists()
    assert finetune.run(config).resumed_from == 2
