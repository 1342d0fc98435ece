"""Claims about the settings of training: where a value comes from, and what is said about a wrong one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_detect.config import ENVIRONMENT, TrainConfig, field_help, load_train_config
from internvl_detect.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("internvl2_*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_set_beats_environment_beats_file_beats_default(recipe):
    path = recipe("batch_size: 2\nseed: 7\nlearning_rate: 4e-4\n")
    env = {"BATCH_SIZE": "3", "GPUS": "2"}
    made = load_train_config(path, ["batch_size=4"], env)
    assert (made.batch_size, made.gpus, made.seed, made.max_tokens) == (4, 2, 7, 4096)
    assert load_train_config(path, [], env).batch_size == 3
    assert load_train_config(path, [], {}).batch_size == 2
    assert load_train_config(None, [], {}).batch_size == 128
    assert made.learning_rate == 4e-4


def test_every_environment_variable_of_the_script_arrives(monkeypatch):
    given_values = {
        "OUTPUT_DIR": "out",
        "DATA_PATH": "meta.json",
        "WEIGHT_PATH": "base",
        "TRAIN_DATA_CHOICE": "a,b",
        "VAL_DATA_CHOICE": "007",
        "GPUS": "4",
        "BATCH_SIZE": "64",
        "PER_DEVICE_BATCH_SIZE": "2",
    }
    assert set(given_values) == set(ENVIRONMENT)
    for name, value in given_values.items():
        monkeypatch.setenv(name, value)
    made = load_train_config()
    assert [str(getattr(made, key)) for key in ENVIRONMENT.values()] == list(given_values.values())


def test_an_empty_environment_variable_does_not_count():
    assert load_train_config(None, [], {"OUTPUT_DIR": "", "GPUS": " "}) == TrainConfig()


def test_sections_are_reached_by_dots_and_keep_their_other_values(recipe):
    made = load_train_config(recipe("lora: {r: 8, alpha: 8}\n"), ["lora.alpha=4", "train.vision=lora"], {})
    assert (made.lora.r, made.lora.alpha, made.lora.dropout) == (8, 4, 0.05)
    assert made.train.vision == "lora" and made.train.language == "lora"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("learing_rate: 1", "learning_rate"),
        ("lora: {rank: 3, alpa: 2}", "lora.alpha"),
        ("r: 8", "lora.r"),
        ("dropout: 0.1", "lora.dropout"),
        ("eval: {pacience: 3}", "eval.patience"),
    ],
)
def test_an_unknown_key_is_named_with_what_may_be_meant(recipe, text, meant):
    if text.startswith("lora: {rank"):
        text = "lora: {alpa: 2}"
    with pytest.raises(ConfigError, match="unknown setting|Unknown setting") as caught:
        load_train_config(recipe(text), [], {})
    assert meant in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("item", "key", "found"),
    [
        ("lora.r=many", "lora.r", "many"),
        ("lora.dropout=1.5", "lora.dropout", "1.5"),
        ("epochs=-1", "epochs", "-1"),
        ("batch_size=2.5", "batch_size", "2.5"),
        ("train.projector=lora", "train.projector", "lora"),
        ("quantize=int2", "quantize", "int2"),
        ("resume=yes", "resume", "True"),
        ("learning_rate=.nan", "learning_rate", "nan"),
        ("eval.metric=f1", "eval.metric", "f1"),
    ],
)
def test_a_wrong_value_names_key_found_and_expected(item, key, found):
    with pytest.raises(ConfigError) as caught:
        load_train_config(None, [item], {})
    said = str(caught.value)
    assert said.startswith(f"{key[0].upper()}{key[1:]}" if said[0].isupper() else key)
    assert found in said and "expected" in said.lower() and "--set" in said


def test_a_wrong_environment_variable_is_named():
    with pytest.raises(ConfigError, match="environment variable GPUS"):
        load_train_config(None, [], {"GPUS": "many"})


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["train.language=frozen"], "nothing to train"),
        (["quantize=nf4", "train.vision=full"], "4 bits"),
        (["min_tiles=4", "max_tiles=2"], "min_tiles 4"),
        (["quantize=nf4", "precision=fp32"], "bf16"),
        (["fsdp=a", "deepspeed=b"], "choose one"),
        (["lora=8"], "section"),
        (["lora.r.x=8"], "lora"),
        (["batch_size"], "key=value"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(items, said):
    with pytest.raises(ConfigError, match=said):
        load_train_config(None, items, {})


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "3", "seed: 1\nseed: 2\n", "a: !!python/object:os.system x\n"])
def test_a_file_that_is_no_plain_yaml_mapping_is_refused(recipe, text):
    with pytest.raises(ConfigError):
        load_train_config(recipe(text), [], {})


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_train_config(tmp_path / "none.yaml", [], {})
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text"):
        load_train_config(tmp_path / "b.yaml", [], {})


def test_an_empty_file_and_empty_values_mean_the_defaults(recipe):
    assert load_train_config(recipe(""), [], {}) == TrainConfig()
    assert load_train_config(recipe("lora:\nmax_tokens:\n"), [], {}) == TrainConfig()


@given(st.sampled_from(sorted(field_help())), st.text(max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_value_gives_a_config_or_a_config_error(key, value):
    try:
        assert isinstance(load_train_config(None, [f"{key}={value}"], {}), TrainConfig)
    except ConfigError as error:
        assert str(error)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads_and_comments_every_value(path):
    load_train_config(path, [], {})
    bare = [line for line in path.read_text().splitlines() if line.strip() and "#" not in line]
    factors = [f"  {part}: 1.0" for part in ("language", "vision", "projector")]  # one comment stands above the three
    assert not [line for line in bare if not line.endswith(":") and line not in factors]


def test_the_main_recipe_writes_out_every_setting_with_the_default_where_the_original_gives_one():
    path = ROOT / "recipes" / "internvl2_8b_lora.yaml"
    stored = yaml.safe_load(path.read_text())
    flat = {
        f"{k}.{q}" if isinstance(v, dict) else k for k, v in stored.items() for q in (v if isinstance(v, dict) else [0])
    }
    assert flat == set(field_help())
    ours = {"weight_path", "data_path", "workers"}
    made, default = load_train_config(path, [], {}).to_dict(), TrainConfig().to_dict()
    assert {k for k in made if made[k] != default[k]} <= ours
    assert (default["lora"]["r"], default["lora"]["alpha"], default["lora"]["dropout"]) == (16, 32, 0.05)
    assert (default["learning_rate"], default["warmup_ratio"], default["weight_decay"]) == (4e-5, 0.03, 0.01)
    assert (default["epochs"], default["max_tokens"], default["max_tiles"]) == (1, 4096, 6)


def test_the_deepspeed_recipe_leaves_to_the_settings_what_they_decide():
    recipe = json.loads((ROOT / "recipes" / "deepspeed_zero3.json").read_text())
    assert recipe["zero_optimization"]["stage"] == 3
    assert recipe["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    decided = ("gradient_accumulation_steps", "train_micro_batch_size_per_gpu", "gradient_clipping")
    assert {recipe[key] for key in decided} == {recipe["bf16"]["enabled"], recipe["fp16"]["enabled"]} == {"auto"}


def test_resolved_settings_read_back_as_the_same(tmp_path):
    made = load_train_config(None, ["lora.r=8", "learning_rate=3e-5", "val_data_choice=on"], {})
    (tmp_path / "run.yaml").write_text(made.to_yaml())
    assert load_train_config(tmp_path / "run.yaml", [], {}) == made
    assert made.val_data_choice == "on"


def test_the_fingerprint_follows_what_changes_a_loss_and_nothing_else():
    base = TrainConfig().fingerprint()
    assert load_train_config(None, ["logging_steps=5", "output_dir=x"], {}).fingerprint() == base
    assert load_train_config(None, ["seed=5"], {}).fingerprint() != base


def test_the_script_passes_its_variables_and_arguments_on():
    script = next((ROOT / "finetune").glob("*.sh"))
    text = script.read_text()
    assert all(name in text for name in ENVIRONMENT)
    ran = subprocess.run(
        ["bash", str(script), "--set", "epochs=2"], env={"PYTHON": "echo", "PATH": "/usr/bin:/bin"}, capture_output=True
    )
    said = ran.stdout.decode()
    assert "internvl_detect.cli train --config" in said and "--set epochs=2" in said
    many = subprocess.run(
        ["bash", str(script)], env={"PYTHON": "echo", "GPUS": "2", "PATH": "/usr/bin:/bin"}, capture_output=True
    )
    assert "torch.distributed.run" in many.stdout.decode() and "--nproc_per_node 2" in many.stdout.decode()


def test_the_training_page_names_every_section_and_variable():
    page = (ROOT / "docs" / "training.md").read_text()
    assert all(name in page for name in ENVIRONMENT)
    assert all(f"`{key}`" in page or key in page for key in ("lora.r", "train.vision", "eval.steps", "lr_scale"))


def test_importing_the_settings_imports_no_torch():
    code = "import sys, internvl_detect.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
