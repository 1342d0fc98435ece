"""Claims about training a tagger's heads on whole pictures: nothing else changes, and they learn from them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from internvl_detect.model.domain_tag import DomainTagger
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.train.tag_data import TAGS, TagRow
from internvl_detect.train.tagger import TagTraining
from internvl_detect.train.tagger_heads import MOST_PX, Whole, _posted, seen_whole, train_heads
from internvl_detect.train.tagger_run import run

SMALL = Shape(widths=(4, 8, 8, 16, 16), blocks=(0, 1, 1, 1), map_width=8)
SHARES = (0.4, 0.3, 0.1, 0.1, 0.1)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return TaggerNet(SMALL).eval()


def apart(net, n=60):
    """Authentic and generated pictures whose pooled numbers differ."""
    rng = np.random.default_rng(0)
    for i in range(n):
        row = TagRow(f"{i}", TAGS[i % 2], source="ab"[i % 2])
        yield Whole(row, (rng.normal(0, 1, net.pooled_size) + 2 * (i % 2)).astype(np.float32))


def test_the_heads_learn_and_nothing_else_changes(net):
    seen = list(apart(net))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made = train_heads(net, seen, shares=SHARES)
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(("hidden", "tag_head"))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "the given network was changed"
    with torch.inference_mode():
        told = made.tags(torch.from_numpy(np.stack([one.pooled for one in seen]))).argmax(1)
    assert told.tolist() == [i % 2 for i in range(len(seen))]


def test_without_pictures_the_heads_stay(net):
    made = train_heads(net, [], shares=SHARES)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in made.state_dict().items())


def test_what_cannot_be_read_is_left_out_and_the_pooled_numbers_are_those_of_the_picture(net, tmp_path):
    rgb = np.random.default_rng(1).integers(0, 255, (96, 128, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    rows = [TagRow(str(tmp_path / name), "authentic") for name in ("b.png", "a.png")]
    seed = next(s for s in range(99) if np.random.default_rng([s, 1]).random() > 0.5)  # left as it is
    (only,) = seen_whole(net, rows, seed=seed, kept=tmp_path / "whole.jsonl")
    assert only.row.path.endswith("a.png")
    np.testing.assert_array_equal(only.pooled, DomainTagger(net, device="cpu").pooled(Image.fromarray(rgb)))


def test_a_run_that_was_killed_while_it_looked_looks_at_the_rest_alone(net, tmp_path, monkeypatch):
    rows = []
    for i in range(4):
        rgb = np.random.default_rng(i).integers(0, 255, (70, 90, 3), np.uint8)
        Image.fromarray(rgb).save(tmp_path / f"{i}.png")
        rows.append(TagRow(str(tmp_path / f"{i}.png"), "authentic"))
    kept, looks = tmp_path / "whole.jsonl", []
    look = DomainTagger.pooled
    monkeypatch.setattr(DomainTagger, "pooled", lambda *given: looks.append(1) or look(*given))

    def seen(net, seed=0, upto=4, kept=kept):
        looks.clear()
        pooled = [one.pooled for one in itertools.islice(seen_whole(net, rows, seed=seed, kept=kept), upto)]
        return np.array(pooled), len(looks)

    whole, _ = seen(net, kept=tmp_path / "another.jsonl")
    seen(net, upto=2)
    kept.write_bytes(kept.read_bytes() + b"cut")
    for fresh in (2, 0):
        again, count = seen(net)
        np.testing.assert_array_equal(again, whole)
        assert count == fresh
    assert seen(net, seed=1)[1] == 4, "other crops are other pictures"
    other = TaggerNet(SMALL).eval()
    other.stem[1].weight.data += 0.1
    assert seen(other, seed=1)[1] == 4, "another network sees something else"


def test_a_large_picture_is_looked_at_in_part(net):
    picture = Image.new("RGB", (4000, 3000))
    sizes = {_posted(picture, np.random.default_rng(seed)).size for seed in range(12)}
    assert MOST_PX in sizes
    assert all(max(size) <= 1024 for size in sizes - {MOST_PX})


def test_a_run_trains_the_heads_on_whole_pictures_where_its_recipe_asks_for_it(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for split in ("train", "val"):
        for i in range(4):
            rgb = rng.integers(0, 255, (80, 80, 3), np.uint8) if i % 2 else np.full((80, 80, 3), 60 * i, np.uint8)
            Image.fromarray(rgb).save(tmp_path / f"{split}{i}.png")
            rows.append(TagRow(str(tmp_path / f"{split}{i}.png"), TAGS[i % 2], split=split, source="ab"[i % 2]))
    how = TagTraining(steps=2, batch=2, sizes_px=(64,), workers=0, shape=SMALL)
    said: list[str] = []
    run(rows, tmp_path / "crops", how)
    run(rows, tmp_path / "whole", dataclasses.replace(how, whole=4), echo=said.append)
    assert "whole pictures for the heads: 4" in said
    weights = [DomainTagger.load(tmp_path / name / "tagger", "cpu").net.tag_head.weight for name in ("crops", "whole")]
    assert not torch.equal(*weights)
    assert not (tmp_path / "whole" / "whole.jsonl").exists()
