"""Claims on the forging of training pictures and on the nano model's start, its tokenizer and its written form.

Everything is made here: photographs are drawn, networks are untrained. No training is tested in this file.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from internvl_detect.data.forge.finish import Finish
from internvl_detect.data.forge.plain import METHODS, describe, make_edited, soft_mask
from internvl_detect.data.labels import answer_verity
from internvl_detect.data.samples.sample_clip import make_clip
from internvl_detect.errors import CheckpointError
from internvl_detect.media.video import open_video
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.embedded import ABOUT, FOLDER
from internvl_detect.model.nano import TILES, Shape, initial_state, shape_of, to_original, write_original
from internvl_detect.model.prompts import SYSTEM_MESSAGE
from internvl_detect.model.tokenizer import build_tokenizer, encode_text
from internvl_detect.model.yes_no import yes_no_sets
from internvl_detect.train.autoencoders import load_own, new_autoencoder, save_autoencoder
from internvl_detect.train.rebuild import load_autoencoder, rebuild

SMALL = Shape(tokens=0, tile_px=56, vision_width=64, vision_layers=2, vision_mlp=128, width=48, layers=2, mlp=64)


def photograph(height: int = 120, width: int = 150, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).resize((width, height), 3)
    return np.clip(np.asarray(coarse) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


@given(st.integers(0, 10**6), st.sampled_from(METHODS), st.integers(40, 160), st.integers(40, 160))
@settings(max_examples=25, deadline=None)
def test_pixels_change_inside_the_mask_only_and_the_same_seed_makes_the_same_forgery(seed, method, height, width):
    rgb = photograph(height, width)
    made = [make_edited(rgb, np.random.default_rng(seed), method, donor=photograph(200, 90, 1)) for _ in range(2)]
    (edited, mask, record), again = made
    assert np.array_equal(edited[~mask], rgb[~mask])
    assert edited.shape == rgb.shape and edited.dtype == np.uint8 and mask.shape == (height, width)
    assert (edited[mask] != rgb[mask]).any()
    assert np.array_equal(edited, again[0]) and record == again[2]
    x0, y0, x1, y1 = record["box_xyxy"]
    assert mask[y0:y1, x0:x1].sum() == mask.sum()


def test_a_soft_mask_covers_about_the_share_that_was_asked_for():
    shares = [soft_mask(128, 96, np.random.default_rng(i), low=0.1, high=0.2).mean() for i in range(20)]
    assert min(shares) > 0.08 and max(shares) < 0.24


def test_an_unknown_method_and_a_splice_without_a_donor_are_refused():
    with pytest.raises(ValueError, match="splice, copy_move"):
        make_edited(photograph(), np.random.default_rng(0), "paint")
    with pytest.raises(ValueError, match="donor"):
        make_edited(photograph(), np.random.default_rng(0), "splice")


@pytest.mark.parametrize("method", ["none", "whole", *METHODS])
def test_descriptions_begin_with_the_truth(method):
    for seed in range(12):
        words = describe({"method": method, "place": "upper left"}, np.random.default_rng(seed))
        assert answer_verity(words) == ("real" if method == "none" else "fake")
        assert method in ("none", "whole") or "upper left" in words


def test_one_draw_finishes_both_twins_to_the_same_size_and_the_same_quantisation():
    rng = np.random.default_rng(3)
    for seed in range(10):
        finish = Finish.draw(np.random.default_rng(seed))
        files = [Image.open(io.BytesIO(finish.apply(photograph(seed=s), size=(88, 88)))) for s in (seed, seed + 100)]
        assert {f.size for f in files} == {(88, 88)} and {f.format for f in files} == {"JPEG"}
        assert files[0].quantization == files[1].quantization
    assert 75 <= Finish.draw(rng).quality <= 95


def test_a_made_clip_is_edited_between_its_two_times_and_nowhere_else(tmp_path):
    rgb, other = photograph(200, 300), photograph(200, 300, 1)
    options = {"donor": other, "seconds": 2.0, "size_wh": (192, 128)}
    clips = [
        open_video(make_clip(rgb, tmp_path / f"{i}.mp4", edited_s=times, **options), frames=8)
        for i, times in enumerate([(0.7, 1.3), (9.0, 9.0)])
    ]
    assert clips[0].times_s == clips[1].times_s
    for time_s, a, b in zip(clips[0].times_s, clips[0].frames, clips[1].frames, strict=True):
        differs = np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean()
        assert (differs > 3) == (0.7 <= time_s < 1.3)


@pytest.mark.parametrize("kind", ["nearest8", "bilinear4a", "transpose16k", "wide8v", "style8g", "shuffle4"])
def test_own_autoencoders_keep_any_picture_size_and_survive_their_file(kind, tmp_path):
    torch.manual_seed(0)
    net = new_autoencoder(kind).eval()
    rgb = photograph(45, 61)
    out = rebuild(net, rgb)
    assert out.shape == rgb.shape and out.dtype == np.uint8
    save_autoencoder(net, tmp_path / "net.safetensors", kind=kind)
    assert np.array_equal(rebuild(load_own(tmp_path / "net.safetensors"), rgb), out)


def test_a_network_is_built_from_tensor_names_and_a_foreign_file_is_refused(tmp_path):
    def conv(name: str, out: int, inp: int, bias: bool = True) -> dict[str, torch.Tensor]:
        weight = {f"{name}.weight": torch.randn(out, inp, 3, 3) * 0.05}
        return weight | ({f"{name}.bias": torch.zeros(out)} if bias else {})

    def block(i: int) -> dict[str, torch.Tensor]:
        return conv(f"{i}.conv.0", 8, 8) | conv(f"{i}.conv.2", 8, 8) | conv(f"{i}.conv.4", 8, 8)

    encoder = conv("0", 8, 3) | block(1) | conv("2", 8, 8, bias=False) | block(3) | conv("4", 4, 8)
    decoder = conv("1", 8, 4) | block(3) | conv("5", 8, 8, bias=False) | block(6) | conv("7", 3, 8)
    for name, state in (("e", encoder), ("d", decoder)):
        save_file(state, str(tmp_path / name))
    net = load_autoencoder(tmp_path / "e", tmp_path / "d")
    assert net.factor == 2 and rebuild(net, photograph(31, 30)).shape == (31, 30, 3)
    save_file({"layers.weight": torch.zeros(3)}, str(tmp_path / "x"))
    with pytest.raises(CheckpointError, match=r"layers\.weight"):
        load_autoencoder(tmp_path / "x", tmp_path / "d")


@pytest.fixture(scope="module")
def tokenizer_model() -> bytes:
    from internvl_detect.model.nano_tokenizer import train_tokenizer

    return train_tokenizer([open(__file__).read()], pieces=700)


def test_its_tokenizer_reads_as_internlm2s_and_the_system_message_is_short(tokenizer_model, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer_model)
    tokenizer = build_tokenizer(path)
    assert len(tokenizer) == 709
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<|im_start|>", "<box>"]) == [0, 1, 2, 699, 707]
    assert len(encode_text(tokenizer, SYSTEM_MESSAGE)) < 12
    for text in (SYSTEM_MESSAGE, "Hello  wörld\n\n 😀 12", "[UNUSED_TOKEN_146]"):
        assert tokenizer.decode(encode_text(tokenizer, text)) == text
    sets = yes_no_sets(tokenizer)
    assert len(sets.yes) >= 4 and len(sets.no) >= 4


def test_a_written_start_loads_and_its_native_tensors_go_back_unchanged(tokenizer_model, tmp_path):
    shape = Shape(**{**vars(SMALL), "tokens": 709})
    patches = np.random.default_rng(0).integers(0, 256, (400, 14, 14, 3), dtype=np.uint8)
    state = initial_state(shape, patches, seed=1)
    write_original(tmp_path / "m", state, shape, tokenizer_model, dtype=torch.float32)
    loaded = load_base(tmp_path / "m")
    assert loaded.settings.tiles.mode == TILES.mode and loaded.tokens_per_tile == 4
    assert shape_of(loaded.config) == shape
    back = to_original(loaded.model.state_dict(), shape)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_patch_embedding_starts_with_unit_variance_on_the_patches_it_was_made_for():
    rng = np.random.default_rng(0)
    picture = photograph(400, 400)
    patches = np.stack([picture[y : y + 14, x : x + 14] for y, x in rng.integers(0, 386, (3000, 2))])
    state = initial_state(Shape(tokens=100), patches)
    weight = state["vision_model.embeddings.patch_embedding.weight"]
    bias = state["vision_model.embeddings.patch_embedding.bias"]
    pixels = (torch.from_numpy(patches).float() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    out = torch.einsum("nyxc,ocyx->no", pixels, weight) + bias
    assert torch.allclose(out[:, :252].std(0), torch.ones(252), atol=0.05)
    assert torch.allclose(out[:, 252:], torch.ones(3000, 4))


def test_the_package_carries_its_model_under_20_mb_with_an_adapter_a_calibration_and_samples():
    folder = FOLDER / "nano"
    files = [f for name in ("nano", "nano_lora") for f in (FOLDER / name).iterdir()]
    assert sum(f.stat().st_size for f in files) < 20e6
    loaded = load_base("nano")
    assert loaded.form == "original" and loaded.settings.calibration and loaded.settings.about == ABOUT
    assert load_base("nano", adapter="none").fingerprint == load_base(folder).fingerprint == loaded.fingerprint
    samples = FOLDER / "samples"
    credits = (samples / "CREDITS.md").read_text()
    assert all(f.name in credits for f in samples.iterdir() if f.suffix in (".jpg", ".mp4"))
