"""Claims about FakeShield's tagger: torchvision's ResNet-50 to the digit, nothing odd is read, nothing is claimed."""

from __future__ import annotations

import dataclasses
import os
import pickle
import zipfile
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from internvl_detect.detect import Detector, looking
from internvl_detect.detect.detector import load_tagger
from internvl_detect.errors import CheckpointError, ConfigError
from internvl_detect.model import fakeshield_tag
from internvl_detect.model.checkpoint import load_base
from internvl_detect.model.fakeshield_tag import FakeShieldTagger, fitting, prepared
from internvl_detect.questions import EDITS

WIDTHS, BLOCKS = (64, 128, 256, 512), (3, 4, 6, 3)


def blocks():
    """(name, channels in, width, stride) of every bottleneck."""
    channels = 64
    for stage, (width, count) in enumerate(zip(WIDTHS, BLOCKS, strict=True), 1):
        for at in range(count):
            yield f"layer{stage}.{at}", channels, width, 2 if stage > 1 and at == 0 else 1
            channels = 4 * width


def random_state(seed: int = 0) -> OrderedDict:
    """A state of torchvision's resnet50 with three classes, whose every number speaks."""
    draw, state = torch.Generator().manual_seed(seed), OrderedDict()

    def layer(conv, norm, out, into, side, gain=1.0):
        state[f"{conv}.weight"] = torch.randn(out, into, side, side, generator=draw) * (2 / (into * side * side)) ** 0.5
        for name, low, high in (("weight", 0.5, 1.5), ("bias", -0.3, 0.3), ("running_mean", -0.3, 0.3)):
            state[f"{norm}.{name}"] = torch.empty(out).uniform_(low, high, generator=draw)
        state[f"{norm}.weight"] *= gain
        state[f"{norm}.running_var"] = torch.empty(out).uniform_(0.5, 2, generator=draw)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    layer("conv1", "bn1", 64, 3, 7)
    for name, into, width, stride in blocks():
        for k, (out, of, side) in enumerate([(width, into, 1), (width, width, 3), (4 * width, width, 1)], 1):
            layer(f"{name}.conv{k}", f"{name}.bn{k}", out, of, side, gain=0.3 if k == 3 else 1.0)
        if into != 4 * width or stride > 1:
            layer(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, into, 1)
    state["fc.weight"] = torch.randn(3, 2048, generator=draw) * 0.02
    state["fc.bias"] = torch.randn(3, generator=draw)
    return state


def resnet50(state, x):
    """ResNet-50 v1.5 (the stride in the 3 x 3) written out over torchvision's names."""

    def layer(x, conv, norm, stride=1, padding=0):
        x = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=padding)
        parts = [state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts)

    x = F.max_pool2d(layer(x, "conv1", "bn1", 2, 3).relu(), 3, 2, 1)
    for name, _, _, stride in blocks():
        way = layer(x, f"{name}.conv1", f"{name}.bn1").relu()
        way = layer(way, f"{name}.conv2", f"{name}.bn2", stride, 1).relu()
        way = layer(way, f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in state:
            x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        x = (x + way).relu()
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("fakeshield") / "DTG.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def tagger(path):
    return FakeShieldTagger.load(path, "cpu")


@pytest.fixture(scope="module")
def net():
    with torch.device("meta"):
        return ResNetForImageClassification(ResNetConfig(num_labels=3))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_the_network_is_torchvision_s_with_its_stride_in_the_three_by_three(state, tagger):
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_" not in k) == 23_514_179
    for size in ((224, 224), (96, 160)):
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            got, want = tagger.net(x).logits, resnet50(state, x)
        assert want.std() > 0.1
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(640, 480), (480, 641), (257, 500), (100, 31), (256, 256), (2, 300)])
def test_a_picture_is_prepared_as_by_resize_256_and_centre_crop_224(size):
    picture = noise(*size)
    width, height = (int(256 * side / min(size)) for side in size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    cut = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    back = prepared(picture)[0].permute(1, 2, 0) * torch.tensor([0.229, 0.224, 0.225])
    back = (back + torch.tensor([0.485, 0.456, 0.406])) * 255
    assert np.abs(back.numpy() - np.asarray(cut, np.float32)).max() < 1.01  # a grey level


def test_a_look_has_the_file_s_classes_in_their_order_and_is_no_evidence(state, tagger):
    seen = tagger.look(noise(300, 200))
    with torch.inference_mode():
        want = resnet50(state, prepared(noise(300, 200))).softmax(1)[0].tolist()
    assert list(seen.probabilities) == ["aigc_editing", "deepfake", "photoshop"]
    assert list(seen.probabilities.values()) == pytest.approx(want, abs=1e-5)
    assert (seen.score, seen.log_odds, seen.tells, seen.map.size) == (0.5, 0.0, False, 0)


@pytest.mark.parametrize(("size", "mode"), [((1, 1), "RGB"), ((1, 9000), "L"), ((8000, 100), "RGBA"), ((90, 20), "1")])
def test_any_picture_is_looked_at(tagger, size, mode):
    assert sum(tagger.look(Image.new(mode, size, 0)).probabilities.values()) == pytest.approx(1)


def test_one_from_parallel_training_in_half_precision_or_safetensors_is_the_same(state, tagger, tmp_path):
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "a.pth")
    save_file(dict(state), str(tmp_path / "b.safetensors"))
    for name in ("a.pth", "b.safetensors"):
        other = load_tagger(tmp_path / name, "cpu")
        assert (other.name, other.fingerprint) == (name, tagger.fingerprint)
        assert other.look(noise(90, 70)).probabilities == tagger.look(noise(90, 70)).probabilities
    half = {k: v.half() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(half, tmp_path / "c.pth")
    near = load_tagger(tmp_path / "c.pth", "cpu").look(noise(90, 70)).probabilities
    assert near == pytest.approx(tagger.look(noise(90, 70)).probabilities, abs=0.02)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(state, tmp_path, zipped):
    pickle.loads(pickle.dumps(Evil(tmp_path / "it would")))
    assert (tmp_path / "it would").is_dir()
    for number, content in enumerate((Evil(tmp_path / "ran"), {**state, "fc.bias": Evil(tmp_path / "ran")})):
        file = tmp_path / f"{number}.pth"
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="cannot be used"):
            load_tagger(file)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(CheckpointError):
        load_tagger(tmp_path / "raw.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)},
        {"conv1.weight": torch.zeros(64, 3, 3, 3)},
        {"conv1.weight": "text"},
        {"fc.bias": None},
        {"fc.bias": torch.zeros(3, dtype=torch.int64)},
        {"fc.bias": torch.zeros(3, device="meta")},
        {"fc.bias": torch.zeros(3).to_sparse()},
        {"fc.bias": torch.tensor([0.0, float("nan"), 0.0])},
        {"extra": torch.zeros(1)},
        {7: torch.zeros(1)},
    ],
)
def test_what_is_odd_is_refused_with_its_name(state, net, tmp_path, change):
    name = str(next(iter(change))) if 7 not in change else "no names"
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        fitting({**state, **change}, net, tmp_path / "x.pth")


@pytest.mark.parametrize("absent", ["conv1.weight", "layer3.5.bn2.running_var", "layer2.0.downsample.0.weight"])
def test_what_is_missing_is_named(state, net, tmp_path, absent):
    less = {k: v for k, v in state.items() if k != absent}
    for found in (less, {f"module.{k}": v for k, v in less.items()}):
        with pytest.raises(CheckpointError, match=f"lacks '{absent}'"):
            fitting(found, net, tmp_path / "x.pth")
    for odd in ({}, {"state_dict": state}, [1], None):
        with pytest.raises(CheckpointError):
            fitting(odd, net, tmp_path / "x.pth")


def test_files_that_are_large_compressed_cut_or_of_another_kind_are_refused(path, tmp_path, monkeypatch):
    small = tmp_path / "small.pth"
    torch.save({"fc.bias": torch.zeros(3)}, small)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    with pytest.raises(CheckpointError, match="compressed"):
        load_tagger(packed)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(path.read_bytes()[:-1000])
    text = tmp_path / "a.safetensors"
    text.write_text("no weights")
    script = tmp_path / "script.pth"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), script)
    for file in (cut, text, script):
        with pytest.raises(CheckpointError, match="cannot be used"):
            load_tagger(file)
    monkeypatch.setattr(fakeshield_tag, "MOST_PICKLE_BYTES", 50)
    with pytest.raises(CheckpointError, match="list of tensors"):
        load_tagger(small)
    monkeypatch.setattr(fakeshield_tag, "MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="more than 1000"):
        load_tagger(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        Detector.from_pretrained("nano", tagger=tmp_path / "nowhere.pth")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.binary(max_size=9))
def test_a_file_with_any_bytes_changed_is_refused_in_words(tmp_path_factory, net, changes, tail):
    file = tmp_path_factory.getbasetemp() / "changed.pth"
    torch.save({"fc.bias": torch.zeros(3), "fc.weight": torch.zeros(3, 4)}, file)
    content = bytearray(file.read_bytes())
    for at, value in changes:
        content[at % len(content)] = value
    file.write_bytes(bytes(content) + tail)
    with pytest.raises(CheckpointError):
        fitting(fakeshield_tag._read(file), net, file)


def test_weights_that_give_no_number_are_told_at_the_picture(state, tmp_path, photo):
    torch.save({**state, "bn1.running_var": torch.full((64,), -5.0)}, tmp_path / "odd.pth")
    (row,) = Detector.from_pretrained("nano", tagger=tmp_path / "odd.pth").detect_many([photo()])
    assert "not a number" in row.error


def test_it_opens_the_question_and_leaves_the_verdict_to_internvl2(path, photo, clip, monkeypatch):
    asked = []
    real = looking.Looker.look
    monkeypatch.setattr(looking.Looker, "look", lambda self, jobs, w: (real(self, jobs, w), asked.extend(jobs))[0])
    detector, plain = Detector.from_pretrained("nano", tagger=path), Detector.from_pretrained("nano", tagger=None)
    for media in (photo(), clip()):
        got, want = detector.detect(media, explain=True, frames=3), plain.detect(media, frames=3)
        assert (got.score, got.decision, got.label) == (want.score, want.decision, want.label)
        assert got.domain_tag in EDITS and set(got.tag_probabilities) == set(EDITS)
        (look,) = [e for e in got.evidence if e.source == "domain_tag"]
        assert look.score is None and "if it is a forgery" in look.summary and "disagrees" not in look.details
        assert got.words is not None and got.mask is None
    assert [job.places for job in asked] == [[""], [""] * len(asked[1].looks)]
    assert detector.facts["domain tagger"] == f"DTG.pth {detector.looker.tagger.fingerprint}"


def test_weights_to_fuse_by_are_not_used_for_a_tagger_that_tells_nothing(tiny_folder, tagger, photo):
    loaded = load_base(tiny_folder)
    fused = dataclasses.replace(loaded.settings, fusion={"model": 0.5, "tag": 1.0, "bias": 3.0})
    file = photo()
    got = Detector(dataclasses.replace(loaded, settings=fused), tagger=tagger).detect(file)
    assert got.score == Detector(loaded).detect(file).score
    assert [e.source for e in got.evidence if e.score is not None] == []


def test_a_mask_is_refused_unless_a_head_draws_without_a_tagger_s_map(tiny_folder, tagger, photo, monkeypatch):
    detector = Detector(load_base(tiny_folder), tagger=tagger)
    assert not detector.draws and detector.plan(1, False).own
    with pytest.raises(ConfigError, match="has a map"):
        detector.detect(photo(), mask=True)
    for kind in ("light", "sam"):
        monkeypatch.setattr(looking, "parts_of", lambda _, kind=kind: SimpleNamespace(head=SimpleNamespace(kind=kind)))
        assert detector.draws == (kind == "sam")
