"""Claims about strangers' files that once broke a promise: each found by attack, each now answered by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from original_model import make_config, make_tensors, write_checkpoint
from safetensors.torch import load_file, save_file
from test_cli import run

from internvl_detect.detect import detector as detecting
from internvl_detect.detect.detector import Detector
from internvl_detect.errors import AdapterError, CheckpointError, ConfigError, DataError, IvdetectError
from internvl_detect.model.adapter import LoraSettings, merge, new_lora, save_adapter
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.checkpoint import convert, load_base
from internvl_detect.model.settings import AdapterSettings

WRONG = ["x", [], {}, -1, 0, 1e12, True, 10**30, float("nan")]
NUMBERS = ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"]


@pytest.mark.parametrize("tower", ["vision_config", "llm_config"])
@pytest.mark.parametrize("key", [*NUMBERS, "image_size", "patch_size", "hidden_act", "num_key_value_heads"])
def test_no_value_of_a_config_gives_anything_but_a_checkpoint_error(tmp_path, tower, key):
    config = make_config()
    if key not in config[tower]:
        return
    tensors = make_tensors(config)
    for value in WRONG:
        changed = config | {tower: config[tower] | {key: value}}
        with pytest.raises(CheckpointError):
            load_base(write_checkpoint(tmp_path / "m", changed, tensors))


@pytest.mark.parametrize(
    ("key", "value"),
    [("rms_norm_eps", 1.5), ("rms_norm_eps", "x"), ("rope_theta", []), ("rope_theta", float("nan"))]
    + [("rope_scaling", "x"), ("rope_scaling", {"type": "dynamic", "factor": -1}), ("bos_token_id", "x")],
)
def test_absurd_numbers_of_the_language_model_are_refused_not_computed_with(tmp_path, key, value):
    config = make_config(**{f"t_{key}": value})
    with pytest.raises(CheckpointError):
        load_base(write_checkpoint(tmp_path / "m", config, make_tensors(make_config())))


@pytest.mark.parametrize("kind", [torch.int32, torch.complex64, torch.float64])
def test_weights_of_an_impossible_type_are_refused(tmp_path, kind):
    config = make_config()
    tensors = {name: t.to(kind) for name, t in make_tensors(config).items()}
    with pytest.raises(CheckpointError, match="type"):
        load_base(write_checkpoint(tmp_path / "m", config, tensors))


@pytest.mark.parametrize("weight_map", [[1], "abc", {"a": 1}, {"a": None}])
def test_an_index_that_is_no_index_is_refused(tmp_path, weight_map):
    config = make_config()
    folder = write_checkpoint(tmp_path / "m", config, make_tensors(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError):
        load_base(folder)


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """(base folder, adapter folder with a calibration) of the tiny model."""
    loaded = load_base(tiny_folder)
    fitted = Calibration(method="platt", a=1.0, b=3.0, n_real=9, n_fake=9).to_dict()
    settings = AdapterSettings(
        tiles=loaded.settings.tiles, base_fingerprint=loaded.fingerprint, base_name="tiny", calibration=fitted
    )
    save_adapter(new_lora(loaded.model, LoraSettings(r=2)), tmp_path / "mine", settings)
    return tiny_folder, tmp_path / "mine"


def test_an_adapter_without_its_settings_is_not_called_calibrated(adapter, photo):
    base, folder = adapter
    assert Detector.from_pretrained(base, folder).detect(photo()).calibrated
    (folder / "ivdetect.json").unlink()
    detector = Detector.from_pretrained(base, folder)
    assert not detector.detect(photo()).calibrated and any("ivdetect.json" in n for n in detector.loaded.notes)


@pytest.mark.parametrize("key", ["lora_alpha", "lora_dropout", "use_rslora", "alpha_pattern"])
@pytest.mark.parametrize("value", ["x", [1], -1, 1e12, float("nan")])
def test_absurd_adapter_settings_are_refused(adapter, key, value):
    base, folder = adapter
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(AdapterError):
        load_base(base, adapter=folder)


@pytest.mark.parametrize("change", [lambda t: t.flatten(), lambda t: t[:0], lambda t: t.to(torch.int32)])
def test_adapter_tensors_of_a_wrong_rank_shape_or_type_are_refused(adapter, change):
    base, folder = adapter
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file(tensors | {name: change(tensors[name]).contiguous()}, str(file))
    with pytest.raises(AdapterError):
        load_base(base, adapter=folder)


@pytest.mark.parametrize("calibration", [0, -1, [], True, "x", {"a": "x"}, {"a": True}, {"low": -5}, {"b": 1e9}])
def test_a_calibration_that_is_none_is_refused_wherever_it_is_stored(adapter, calibration):
    _, folder = adapter
    with pytest.raises(DataError):
        Calibration.from_dict(calibration)
    file = folder / "ivdetect.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"calibration": calibration}))
    with pytest.raises(AdapterError):
        AdapterSettings.read(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(["method", "a", "b", "low", "high", "n_real", "n_fake", "note", "model"]), value=JSON)
def test_any_value_in_a_calibration_is_used_or_refused(key, value):
    try:
        fitted = Calibration.from_dict({"method": "platt", key: value})
    except DataError:
        return
    assert 0 <= fitted.probability(0.3) <= 1


def test_a_merged_model_refuses_a_second_adapter(adapter, tmp_path):
    base, folder = adapter
    merged = merge(base, folder, tmp_path / "merged")
    with pytest.raises(AdapterError, match="already holds"):
        load_base(merged, adapter=folder)
    assert oct((merged / "model.safetensors").stat().st_mode)[-3:] == "644"


def test_the_embedded_model_converts(tmp_path):
    native = convert("nano", tmp_path / "native")
    assert load_base(native).fingerprint == load_base("nano", adapter="none").fingerprint


def test_a_calibration_serves_the_model_that_it_was_fitted_on_and_no_other(adapter, tiny_folder, photo, tmp_path):
    base, folder = adapter
    for i in range(6):
        photo(f"real/{i}.png", seed=i)
        photo(f"fake/{i}.png", seed=50 + i)
    files = ["--real", tmp_path / "real", "--fake", tmp_path / "fake"]
    where = tmp_path / "c.json"
    assert run("calibrate", *files, "--model", base, "--out", where)[0] == 0
    assert run("detect", photo(), "--model", base, "--calibration", where)[0] == 0
    code, _, err = run("detect", photo(), "--model", base, "--adapter", folder, "--calibration", where)
    assert code == 2 and "fitted on scores of tiny" in err


def test_a_file_whose_reading_fails_is_one_row(photo, tiny_folder, monkeypatch):
    paths = [photo(f"{i}.png", seed=i) for i in range(3)]
    detector = Detector.from_pretrained(tiny_folder)
    opened = detecting.open_media

    def fails(media, **options):
        if str(media) == str(paths[1]):
            raise OSError(5, "Input/output error")
        return opened(media, **options)

    monkeypatch.setattr(detecting, "open_media", fails)
    rows = list(detector.detect_many(paths))
    assert [hasattr(row, "score") for row in rows] == [True, False, True]
    assert rows[1].exit_code == 3 and "Input/output" in rows[1].error


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices are POSIX")
def test_pipes_and_devices_are_refused_at_once(tmp_path, tiny_folder, photo):
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", "/dev/zero"):
        assert run("data", "check", source)[0] == 5
        assert run("train", "--show", "--config", source)[0] == 2
        assert run("detect", photo(), "--model", tiny_folder, "--calibration", source)[0] == 2
        assert run("report", source)[0] == 2


def test_what_is_nested_without_end_is_refused(tmp_path, photo, tiny_folder):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    assert run("detect", photo(), "--model", tiny_folder, "--calibration", deep)[0] == 2
    assert run("report", deep)[0] == 2
    assert run("detect", photo(), "--model", tiny_folder, "--out", deep, "--resume")[0] == 2
    settings = tmp_path / "deep.yaml"
    for text in ("[" * 5000, "a: &a\n  b: *a\n", "epochs: " + "9" * 5000):
        settings.write_text(text)
        assert run("train", "--show", "--config", settings)[0] == 2
    assert run("train", "--show", "--set", "lora.r=" + "[" * 5000)[0] == 2


@given(
    key=st.sampled_from(["score", "timings", "frames", "stretch", "regions", "evidence", "path", "model"]), value=JSON
)
def test_a_report_of_any_rows_is_written_or_refused(tmp_path_factory, key, value):
    from internvl_detect.detect.results_file import load_rows
    from internvl_detect.report.command import write
    from internvl_detect.verdict import Verdict

    row = Verdict("a.jpg", "image", 0.5, 0.5, "unsure", "real", "m", {}).to_dict() | {key: value}
    file = tmp_path_factory.getbasetemp() / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    try:
        rows = list(load_rows(file))
    except ConfigError:
        return
    for name in ("r.html", "r.md"):
        write(rows, file.with_name(name))


def process(*arguments, **more):
    code = "from internvl_detect.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE, text=True, **more
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_full_and_closed_output_end_with_their_code(photo, tiny_folder):
    with open("/dev/full", "w") as full:
        ran = process("detect", photo(), "--model", tiny_folder, "--json", stdout=full)
        said = ran.communicate()[1]
    assert ran.returncode == 6 and "could not be written" in said


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_an_interrupted_batch_says_so_and_keeps_its_rows(photo, tiny_folder, tmp_path):
    first = photo("p/a.png")
    for i in range(2000):  # so many that it cannot be through before it is interrupted
        os.link(first, first.with_name(f"{i:04d}.png"))
    rows = tmp_path / "rows.jsonl"
    running = process(
        *("detect", first.parent, "--model", tiny_folder, "--out", rows, "--batch-size", 1, "--regions"),
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
    )
    while not (rows.exists() and rows.stat().st_size) and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130 and "interrupted" in said, said
    assert all(json.loads(line)["score"] is not None for line in rows.read_text().splitlines())


def test_after_a_resume_one_bad_file_among_good_ones_still_ends_with_1(photo, tmp_path, tiny_folder):
    good, bad, rows = photo("good.png"), tmp_path / "bad.png", tmp_path / "rows.jsonl"
    bad.write_text("text")
    command = ("detect", good, bad, "--model", tiny_folder, "--out", rows)
    assert run(*command)[0] == 1
    assert run(*command, "--resume")[0] == 1


def test_every_error_of_the_tree_names_what_was_found():
    error = IvdetectError("the file is odd", expected="an even one", do="add a byte")
    assert str(error) == "the file is odd. Expected an even one. Add a byte."
