"""Claims about packing and the loss: same numbers as one sample at a time with full logits, and nothing leaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_detect.errors import DataError
from internvl_detect.media.tiles import normalise
from internvl_detect.train.attention import use_by_sample
from internvl_detect.train.collate import IGNORE, Broken, Collator, Item
from internvl_detect.train.loss import answer_logits, answer_loss, first_answers, normalised
from internvl_detect.train.packing import pack, plan_run

lengths_lists = st.lists(st.integers(1, 60), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from internvl_detect.model.checkpoint import load_base

    return load_base(tiny.write_base(tmp_path_factory.mktemp("base"), tile_px=56), dtype="float32")


@pytest.fixture(scope="module")
def model(base):
    from internvl_detect.model.adapter import LoraSettings, new_lora

    torch.manual_seed(0)
    wrapped = new_lora(base.model, LoraSettings(r=4, dropout=0.0))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return wrapped


def collator(base, **options):
    image = base.config.image_token_id
    return Collator(
        pad_id=2, image_token_id=image, tokens_per_tile=base.tokens_per_tile, tile_px=base.tile_px, **options
    )


def sample(base, seed, *, tiles=1, words=9, answer=4, turns=1):
    """A conversation of random tokens with the model's picture tokens in it."""
    rng = np.random.default_rng(seed)
    ids, labels = [1], [IGNORE]
    for turn in range(turns):
        question = rng.integers(3, 500, words).tolist()
        if turn == 0:
            question += [base.config.image_token_id] * (tiles * base.tokens_per_tile)
        said = rng.integers(3, 500, answer).tolist()
        ids += question + said
        labels += [IGNORE] * len(question) + said
    pixels = rng.integers(0, 255, (tiles, base.tile_px, base.tile_px, 3), dtype=np.uint8) if tiles else None
    return Item(ids, labels, pixels, truth=seed % 2, tag=seed)


@pytest.fixture(scope="module")
def items(base):
    shapes = [(1, 9, 4, 1), (3, 5, 2, 1), (0, 20, 6, 2), (2, 7, 1, 3), (0, 1, 1, 1)]
    return [sample(base, i, tiles=t, words=w, answer=a, turns=n) for i, (t, w, a, n) in enumerate(shapes)]


def full_logits(model, batch):
    pixels = {"pixel_values": normalised(batch["pixel_values"])} if "pixel_values" in batch else {}
    return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, **pixels).logits


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(one, other, tolerance=1e-6):
    assert one.keys() == other.keys() and one
    for name in one:
        assert torch.allclose(one[name], other[name], atol=tolerance, rtol=0), name


def test_the_answer_only_loss_and_its_gradients_equal_those_of_full_logits(base, model, items):
    batch = collator(base)([[items[1]]])
    logits = full_logits(model, batch)
    labels = torch.tensor(items[1].labels)
    plain = F.cross_entropy(logits[0, :-1], labels[1:], ignore_index=IGNORE)
    by_plain = gradients(model, plain)
    ours = answer_loss(model, batch)
    assert abs(ours.item() - plain.item()) < 1e-6
    assert_same_gradients(by_plain, gradients(model, ours))


def test_a_verdict_weight_counts_each_samples_first_answer_token_that_often(base, model, items):
    batch = collator(base)([items[:2], items[2:]])
    plain, weighed = answer_loss(model, batch, 1), answer_loss(model, batch, 1, verdict_weight=5.0)
    logits, targets = answer_logits(model, batch)
    at = first_answers(batch)[:, 0]
    assert 0 < len(at) < len(targets)
    first = F.cross_entropy(logits[at], targets[at], reduction="sum")
    assert abs((weighed - plain - 4 * first).item()) < 1e-4 * weighed.item()


def test_the_head_never_sees_a_position_that_is_not_learned(base, model, items):
    seen = []
    head = model.get_base_model().lm_head
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    answer_loss(model, collator(base)([items]))
    handle.remove()
    learned = sum(label != IGNORE for item in items for label in item.labels)
    assert [math.prod(shape[:-1]) for shape in seen] == [learned]


@pytest.fixture
def by_sample(model):
    """The model attending sample by sample, as in training, for one test."""
    use_by_sample(model)
    yield model
    model.get_base_model().set_attn_implementation("sdpa")


def test_attention_by_sample_gives_the_loss_and_gradients_of_single_samples(base, model, items, request):
    n_tokens = sum(label != IGNORE for item in items for label in item.labels)
    single = sum(answer_loss(model, collator(base)([[item]]), n_tokens) for item in items)
    apart = gradients(model, single)
    request.getfixturevalue("by_sample")
    batch = collator(base, layout="segments")([items[:2], items[2:]])
    assert batch["segments"] == tuple(len(item.input_ids) for item in items)
    masks = []
    attention = model.get_base_model().model.language_model.layers[0].self_attn
    handle = attention.register_forward_pre_hook(
        lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    together = answer_loss(model, batch, n_tokens)
    handle.remove()
    assert masks == [None]
    assert abs(together.item() - single.item()) < 1e-6
    assert_same_gradients(apart, gradients(model, together))


def test_attention_by_sample_lets_no_sample_see_another(base, by_sample, items):
    def logits_of(row):
        batch = collator(base, layout="segments")([row])
        pixels = normalised(batch["pixel_values"])
        inputs = {k: batch[k] for k in ("input_ids", "position_ids", "segments")}
        with torch.no_grad():
            return by_sample(**inputs, pixel_values=pixels, use_cache=False).logits[0]

    before, end = logits_of(items), len(items[0].input_ids)
    swapped = Item(list(reversed(items[0].input_ids)), items[0].labels, 255 - items[0].pixels)
    after = logits_of([swapped, *items[1:]])
    assert torch.equal(before[end:], after[end:]) and not torch.equal(before[:end], after[:end])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layout", ["one row", "two rows", "padded rows"])
def test_packed_rows_give_the_token_weighted_loss_and_gradients_of_single_samples(
    base, model, items, layout, attention
):
    model.get_base_model().set_attn_implementation(attention)
    n_tokens = sum(label != IGNORE for item in items for label in item.labels)
    single = sum(answer_loss(model, collator(base)([[item]]), n_tokens) for item in items)
    apart = gradients(model, single)
    rows = {
        "one row": [items],
        "two rows": [items[:2], items[2:]],
        "padded rows": [[item] for item in items],
    }
    batch = collator(base)(rows[layout])
    assert len(batch["input_ids"]) == len(rows[layout])
    together = answer_loss(model, batch, n_tokens)
    assert abs(together.item() - single.item()) < 1e-6
    assert_same_gradients(apart, gradients(model, together))
    model.get_base_model().set_attn_implementation("sdpa")


def test_changing_one_sample_changes_nothing_in_the_others_of_its_row(base, model, items):
    def logits_of(row):
        with torch.no_grad():
            return full_logits(model, collator(base)([row]))[0]

    before = logits_of(items)
    ends = np.cumsum([0, *(len(i.input_ids) for i in items)])
    for changed in range(len(items)):
        old = items[changed]
        ids = [i if i == base.config.image_token_id else (i + 7) % 500 + 3 for i in old.input_ids]
        pixels = None if old.pixels is None else 255 - old.pixels
        after = logits_of([*items[:changed], Item(ids, old.labels, pixels), *items[changed + 1 :]])
        own = slice(int(ends[changed]), int(ends[changed + 1]))
        assert not torch.equal(before[own], after[own])
        others = [i for i in range(len(before)) if not own.start <= i < own.stop]
        assert torch.equal(before[others], after[others])


def test_first_answers_point_at_the_token_before_each_first_answer(base, model, items):
    batch = collator(base)([items[:2], items[2:]])
    logits, targets = answer_logits(model, batch)
    found = first_answers(batch)
    assert found[:, 2].tolist() == [0, 1, 2, 3, 4] and found[:, 1].tolist() == [0, 1, 0, 1, 0]
    wanted = [next(label for label in item.labels if label != IGNORE) for item in items]
    assert targets[found[:, 0]].tolist() == wanted
    with torch.no_grad():
        for item, at in zip(items, found[:, 0].tolist(), strict=True):
            alone = full_logits(model, collator(base)([[item]]))[0]
            first = next(i for i, label in enumerate(item.labels) if label != IGNORE)
            assert torch.allclose(logits[at], alone[first - 1], atol=1e-5)


def test_an_empty_row_and_the_filler_add_nothing_but_keep_the_graph(base, model, items):
    filled = collator(base, with_pictures=True)
    empty = answer_loss(model, filled([[]]))
    assert empty.item() == 0
    assert all(float(g.abs().max()) == 0 for g in gradients(model, empty).values())
    words_only = filled([[items[2]]])
    assert "pixel_values" in words_only
    plain = answer_loss(model, collator(base)([[items[2]]]))
    assert abs(answer_loss(model, words_only).item() - plain.item()) < 1e-6


def test_tiles_normalised_on_the_device_are_bit_equal_to_the_reference_path(base):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), dtype=np.uint8)
    assert np.array_equal(normalised(torch.from_numpy(pixels)).numpy(), normalise(pixels))


def test_a_broken_sample_travels_out_of_the_collator_as_its_message(base, items):
    batch = collator(base)([[items[0]], [Broken("a.jsonl:3: gone", "a file", "put it back")]])
    assert batch == {"broken": [("a.jsonl:3: gone", "a file", "put it back")]}


@given(lengths_lists, st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_packing_loses_nothing_fits_and_wastes_less_than_one_row_by_two(lengths, multiple):
    rows = pack(lengths, 64, multiple)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    assert len(rows) % multiple == 0
    needed = math.ceil(sum(lengths) / 64)
    assert len(rows) <= max(multiple, math.ceil((2 * needed) / multiple) * multiple)
    assert rows == pack(lengths, 64, multiple)


@given(
    lengths_lists,
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([0.5, 1.0, 2.5]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_plan_visits_every_sample_equally_and_gives_each_step_its_batch(
    lengths, batch, multiple, epochs, packing, grouped
):
    def plan(seed):
        return plan_run(
            lengths,
            batch_size=batch,
            max_tokens=64,
            epochs=epochs,
            seed=seed,
            row_multiple=multiple,
            packing=packing,
            group_by_length=grouped,
        )

    made = plan(1)
    total = max(1, round(epochs * len(lengths)))
    entries = [entry for row in made.rows for entry in row]
    assert len(entries) == len(set(entries)) == total
    visits = np.bincount([made.sample(e)[0] for e in entries], minlength=len(lengths))
    assert visits.max() - visits.min() <= 1
    assert made.rows_per_step % multiple == 0 and len(made.rows) == made.steps * made.rows_per_step
    steps = [made.rows[i : i + made.rows_per_step] for i in range(0, len(made.rows), made.rows_per_step)]
    sizes = [sum(map(len, step)) for step in steps]
    assert sizes[:-1] == [batch] * (made.steps - 1) and 0 < sizes[-1] <= batch
    assert made == plan(1)


def test_packing_changes_the_rows_of_a_step_and_never_its_samples():
    lengths = np.random.default_rng(0).integers(5, 60, 40)
    plans = [plan_run(lengths, batch_size=8, max_tokens=128, seed=3, packing=p) for p in (True, False)]
    members = [
        [
            sorted(e for row in plan.rows[i : i + plan.rows_per_step] for e in row)
            for i in range(0, len(plan.rows), plan.rows_per_step)
        ]
        for plan in plans
    ]
    assert members[0] == members[1]
    assert plans[0].rows_per_step < plans[1].rows_per_step == 8


def test_grouping_by_length_makes_batches_of_like_length_and_begins_with_the_longest():
    lengths = np.random.default_rng(0).integers(5, 2000, 400)

    def spread(grouped):
        plan = plan_run(lengths, batch_size=8, max_tokens=2048, packing=False, group_by_length=grouped)
        steps = np.array([lengths[row[0]] for row in plan.rows]).reshape(-1, 8)
        return float((steps.max(1) - steps.mean(1)).mean()), int(steps[0].max())

    (mixed, _), (grouped, first) = spread(False), spread(True)
    assert grouped < mixed / 10 and first == lengths.max()


def test_max_steps_repeats_the_data_as_often_as_needed():
    plan = plan_run([5, 6, 7], batch_size=2, max_tokens=16, max_steps=9, seed=0)
    assert plan.steps == 9 and plan.epochs == 6


def test_no_samples_or_one_too_long_is_an_error():
    with pytest.raises(DataError, match="no sample"):
        plan_run([], batch_size=2, max_tokens=16)
    with pytest.raises(DataError, match="99 tokens"):
        plan_run([5, 99], batch_size=2, max_tokens=16)
