"""InternVL2-8B at full size on one GPU: LoRA training, detection, the ViT alone, parity; against the chip's ceilings.

The weights are random (time and memory depend on shapes alone), the code is the package's own. FLOPs and bytes are
counted first, the ceilings measured next (bf16 matrix product, device copy); every figure stands beside the floor
that follows from the two. Sections run one after the other; one that fails says so in the result and the rest goes on.

    python benchmarks/h200.py --out results/h200.json
    python benchmarks/h200.py --size small --out small.json     # a model of 2 M parameters, on any machine

``--reference DIR`` adds parity with stored answers of the original code; ``--only training,detection`` picks sections.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from original_model import make_config, make_tensors, write_checkpoint  # noqa: E402

from internvl_detect.detect.detector import Detector  # noqa: E402
from internvl_detect.detect.jobs import Job, groups_of  # noqa: E402
from internvl_detect.media.image import open_image  # noqa: E402
from internvl_detect.media.tiles import cut_tiles  # noqa: E402
from internvl_detect.model.adapter import LoraSettings, new_lora, trainable_parameters  # noqa: E402
from internvl_detect.model.answer import Answerer, Request  # noqa: E402
from internvl_detect.model.checkpoint import load_base  # noqa: E402
from internvl_detect.model.embedded import FOLDER  # noqa: E402
from internvl_detect.model.kernels import use_kernels  # noqa: E402
from internvl_detect.model.lora_layers import LeanLinear  # noqa: E402
from internvl_detect.questions import IMAGE_QUESTION  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
GIB = 2**30
SIZES = {
    "8b": {
        "v_hidden_size": 1024, "v_num_hidden_layers": 24, "v_num_attention_heads": 16, "v_intermediate_size": 4096,
        "v_image_size": 448, "t_vocab_size": 92553, "t_hidden_size": 4096, "t_num_hidden_layers": 32,
        "t_num_attention_heads": 32, "t_num_key_value_heads": 8, "t_intermediate_size": 14336,
        "t_max_position_embeddings": 32768,
    },
    "small": {
        "v_hidden_size": 64, "v_num_hidden_layers": 2, "v_num_attention_heads": 2, "v_intermediate_size": 128,
        "v_image_size": 112, "t_vocab_size": 8192, "t_hidden_size": 64, "t_num_hidden_layers": 2,
        "t_num_attention_heads": 2, "t_num_key_value_heads": 1, "t_intermediate_size": 128,
        "t_max_position_embeddings": 8192,
    },
}  # fmt: skip
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
KERNELS |= {"cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}


# ---- time and memory -----------------------------------------------------------------------------------------------


def sync() -> None:
    if CUDA:
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], times: int, warm: int = 1) -> list[float]:
    """Wall seconds of each of ``times`` calls after ``warm`` others, the device idle before and after each."""
    found = []
    for turn in range(warm + times):
        sync()
        began = time.perf_counter()
        work()
        sync()
        if turn >= warm:
            found.append(time.perf_counter() - began)
    return found


def peak_gib() -> float | None:
    return round(torch.cuda.max_memory_allocated() / GIB, 2) if CUDA else None


def clear() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def timed(work: Callable[[], Any], times: int = 3, warm: int = 1, **facts: Any) -> dict[str, Any]:
    """A row: median seconds and peak GiB, or what went wrong (out of memory above all)."""
    clear()
    try:
        found = seconds(work, times, warm)
    except Exception as error:  # noqa: BLE001 - one variant's failure is a result
        name = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
        text = "" if name == "out of memory" else f": {str(error).splitlines()[0][:200] if str(error) else ''}"
        del error
        clear()
        return {**facts, "failed": name + text}
    spread = {"seconds": statistics.median(found), "fastest": min(found), "slowest": max(found), "times": times}
    return {**facts, **{k: round(v, 6) if isinstance(v, float) else v for k, v in spread.items()}, "gib": peak_gib()}


def kernels_of(work: Callable[[], Any], top: int = 14) -> list[dict[str, Any]]:
    """Where the device's time goes in one call: the longest kernels, milliseconds and shares of them all."""
    from torch.profiler import ProfilerActivity, profile

    work()
    sync()
    with profile(activities=[ProfilerActivity.CUDA if CUDA else ProfilerActivity.CPU]) as seen:
        work()
        sync()
    spent: dict[str, list[float]] = {}
    for event in seen.key_averages():
        ms = (event.self_device_time_total if CUDA else event.self_cpu_time_total) / 1000
        row = spent.setdefault(event.key[:90], [0.0, 0])
        row[0], row[1] = row[0] + ms, row[1] + event.count
    total = sum(ms for ms, _ in spent.values()) or 1.0
    order = sorted(spent.items(), key=lambda item: -item[1][0])[:top]
    return [{"kernel": k, "ms": round(ms, 2), "calls": n, "share": round(ms / total, 3)} for k, (ms, n) in order]


# ---- what must be done: floating point operations and bytes --------------------------------------------------------


def counts(config: Any) -> dict[str, float]:
    """Per tile, per token, and by attention: operations of one forward, two for a multiply and add.

    Attention of T causal tokens costs 2 T^2 d a layer (both products, half of the square), of a ViT's N full 4 N^2 d.
    """
    v, t = config.vision_config, config.text_config
    n = (v.image_size[0] // v.patch_size[0]) ** 2 + 1
    d, m = v.hidden_size, v.intermediate_size
    vit = v.num_hidden_layers * (2 * n * (4 * d * d + 2 * d * m) + 4 * n * n * d)
    vit += 2 * (n - 1) * 3 * v.patch_size[0] ** 2 * d
    tokens = (n - 1) // 4
    h, kv = t.hidden_size, t.num_key_value_heads * (t.hidden_size // t.num_attention_heads)
    projector = 2 * tokens * (4 * d * h + h * h)
    body = t.num_hidden_layers * (2 * h * h + 2 * h * kv + 3 * h * t.intermediate_size)
    return {
        "vit_per_tile": vit,
        "projector_per_tile": projector,
        "tokens_per_tile": tokens,
        "language_per_token": 2 * body,
        "language_attention_per_token2": 2 * h * t.num_hidden_layers,
        "head_per_token": 2 * h * t.vocab_size,
        "language_bytes_bf16": 2 * (body + h * t.vocab_size),
    }


def forward_flops(c: dict[str, float], tiles: int, lengths: list[int], heads: int) -> dict[str, float]:
    """Operations of one forward by part: ``lengths`` are the samples' tokens, ``heads`` the positions with logits."""
    language = sum(n * c["language_per_token"] + n * n * c["language_attention_per_token2"] for n in lengths)
    return {
        "vision": tiles * (c["vit_per_tile"] + c["projector_per_tile"]),
        "language": language,
        "head": heads * c["head_per_token"],
    }


def training_flops(c: dict[str, float], tiles: int, lengths: list[int], answers: int, again: bool) -> tuple[float, ...]:
    """(needed, done): a LoRA step needs forward and the gradient of activations; recomputing does the forward twice.

    The frozen ViT and projector run forward once. Attention's backward is 2.5 times its forward.
    """
    part = forward_flops(c, tiles, lengths, answers)
    attention = sum(n * n * c["language_attention_per_token2"] for n in lengths)
    products = part["language"] - attention
    needed = part["vision"] + 2 * products + 3.5 * attention + 2 * part["head"]
    return needed, needed + (part["language"] if again else 0.0)


# ---- sections ------------------------------------------------------------------------------------------------------


def ceilings() -> dict[str, Any]:
    """What this chip reaches: a square bf16 product of random numbers, and a device-to-device copy."""
    side, size = (8192, 2 * GIB) if CUDA else (1024, GIB // 8)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in "ab")
    out = torch.empty_like(a)
    product = statistics.median(seconds(lambda: torch.mm(a, b, out=out), 20, 3))
    x = torch.randint(0, 255, (size,), device=DEVICE, dtype=torch.uint8)
    y = torch.empty_like(x)
    copy = statistics.median(seconds(lambda: y.copy_(x), 10, 2))
    return {"bf16_tflops": 2 * side**3 / product / 1e12, "copy_tb_s": 2 * size / copy / 1e12}


def random_checkpoint(folder: Path, size: str) -> dict[str, Any]:
    """An original folder of the size's geometry with random bf16 weights and the embedded model's tokenizer."""
    config = make_config(**SIZES[size])
    torch.manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)

    began = time.perf_counter()
    tensors = make_tensors(config, draw=draw)
    total = sum(t.numel() for t in tensors.values())
    write_checkpoint(folder, config, tensors, shards=4)
    (folder / "tokenizer.model").write_bytes((FOLDER / "nano" / "tokenizer.model").read_bytes())
    return {"original_parameters": total, "written_s": round(time.perf_counter() - began, 1)}


def loading(folder: Path) -> tuple[Any, dict[str, Any]]:
    clear()
    began = time.perf_counter()
    loaded = load_base(folder, dtype="bfloat16", device=DEVICE)
    sync()
    return loaded, {
        "seconds": round(time.perf_counter() - began, 2),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "gib": peak_gib(),
    }


def training(loaded: Any, c: dict[str, float], ceiling: float, quick: bool) -> Iterator[dict[str, Any]]:
    """LoRA steps (forward, backward, AdamW) of whole micro-batches, one change at a time around the defaults."""
    from internvl_detect.train.attention import use_by_sample
    from internvl_detect.train.collate import IGNORE, Collator, Item
    from internvl_detect.train.loss import answer_loss
    from internvl_detect.train.setup import leave_inputs_alone

    torch.manual_seed(0)
    bare = loaded.model
    model = new_lora(bare, LoraSettings())
    leave_inputs_alone(model)
    facts = {"trainable_parameters": trainable_parameters(model)}
    per_tile, side = int(c["tokens_per_tile"]), loaded.tile_px
    rng = np.random.default_rng(0)

    def sample(tiles: int, text: int, answer: int) -> Item:
        words = rng.integers(3, 250, text + answer).tolist()
        ids = words[:text] + [loaded.config.image_token_id] * (tiles * per_tile)
        pixels = rng.integers(0, 255, (tiles, side, side, 3), dtype=np.uint8)
        return Item(ids + words[text:], [IGNORE] * len(ids) + words[text:], pixels)

    seven = [sample(7, 75, 3)]
    packed = [sample(7, 75, 24), sample(7, 75, 24), sample(1, 75, (640 if quick else 4096) - 15 * per_tile - 273)]
    loads = {"7 tiles": seven, "packed": packed, "12 short": [sample(1, 75, 3) for _ in range(12)]}
    collate = Collator(2, loaded.config.image_token_id, per_tile, side, layout="segments")
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-5)
    wide: dict[str, Any] = {"attention": "as it comes", "answers_only": True, "lean": True, "kernels": True}
    wide |= {"autocast": False, "vision_backward": False}

    def row(load: str, micro: int, again: bool, times: int = 3, **change: Any) -> dict[str, Any]:
        profiled = bool(change.pop("profile", False))
        how = {**wide, **change}
        items = loads[load] * micro
        batch = {k: v.to(DEVICE) if torch.is_tensor(v) else v for k, v in collate([items]).items()}
        answers = sum(label != IGNORE for item in items for label in item.labels)
        lengths, tiles = [len(i.input_ids) for i in items], sum(len(i.pixels) for i in items)
        needed, done = training_flops(c, tiles, lengths, answers if how["answers_only"] else sum(lengths), again)

        def step() -> None:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=how["autocast"]):
                if how["answers_only"]:
                    loss = answer_loss(model, batch)
                else:
                    loss = full_loss(model, batch)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        model.train()
        if again:
            bare.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            bare.gradient_checkpointing_disable()
        with contextlib.ExitStack() as stack:
            if how["attention"] != "as it comes":
                stack.enter_context(sample_by_sample(few=0 if how["attention"] == "one kernel" else 10**6))
            if how["attention"] in KERNELS:
                stack.enter_context(sdpa_kernel(KERNELS[how["attention"]]))
            if how["vision_backward"]:
                hook = bare.model.vision_tower.embeddings.patch_embeddings.register_forward_hook(require_gradients)
                stack.callback(hook.remove)
            if not how["lean"]:
                stack.enter_context(peft_layers(model))
            if not how["kernels"]:
                stack.enter_context(plain_modules(bare))
            found = timed(step, times, 1, load=load, micro_batch=micro, checkpointing=again, **how)
            if profiled:
                found["profile"] = kernels_of(step)
        if "seconds" in found:
            s = found["seconds"]
            found |= {
                "samples_per_s": round(len(items) / s, 3),
                "tokens_per_s": round(sum(lengths) / s),
                "tflop_needed": round(needed / 1e12, 1),
                "mfu": round(needed / s / 1e12 / ceiling, 4),
                "hfu": round(done / s / 1e12 / ceiling, 4),
            }
        return found

    use_by_sample(model)
    wide["kernels"] = use_kernels(model, "auto")
    for load in ("7 tiles", "packed"):
        for micro in (1, 2, 4):
            for again in (True, False):
                yield row(load, micro, again, 5) | facts
    changes: list[dict[str, Any]] = [{"profile": True}, {"lean": False, "autocast": True}, {"answers_only": False}]
    changes += [{"autocast": True}, {"vision_backward": True}]
    changes += [{"attention": name} for name in ("one kernel", "cudnn", "math")]
    changes += [{"kernels": False}] if wide["kernels"] else []
    before = {"kernels": False, "lean": False, "answers_only": False, "autocast": True, "attention": "one by one"}
    changes += [before | {"vision_backward": True}]
    for again in (True, False):
        for change in changes:
            yield row("packed", 1, again, **change) | facts
        yield row("12 short", 1, again) | facts
        yield row("12 short", 1, again, attention="one by one") | facts
    bare.gradient_checkpointing_disable()
    loaded.model = model.unload()
    loaded.model.model.language_model.config._attn_implementation = "sdpa"
    loaded.model.eval()


def full_loss(model: Any, batch: dict[str, Any]) -> Any:
    """The loss from logits of every position, as the original code takes it."""
    from internvl_detect.train.loss import normalised

    inputs = {k: batch[k] for k in ("input_ids", "position_ids", "segments")}
    logits = model(**inputs, pixel_values=normalised(batch["pixel_values"]), use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch["shift_labels"].flatten())


def require_gradients(module: Any, given: Any, out: Any) -> None:
    out.requires_grad_(True)


@contextlib.contextmanager
def sample_by_sample(few: int) -> Iterator[None]:
    """Attention one sample after the other in rows of up to ``few`` samples, and in one kernel above."""
    from internvl_detect.train import attention

    kept, attention.FEW = attention.FEW, few
    yield
    attention.FEW = kept


@contextlib.contextmanager
def peft_layers(model: Any) -> Iterator[None]:
    """PEFT's own forward in place of the package's."""
    changed = [m for m in model.modules() if type(m) is LeanLinear]
    for module in changed:
        module.__class__ = LeanLinear.__base__
    yield
    for module in changed:
        module.__class__ = LeanLinear


@contextlib.contextmanager
def plain_modules(model: Any) -> Iterator[None]:
    """transformers' own norms, MLP and rotary positions in place of the fused ones."""
    from transformers.models.llama import modeling_llama

    changed = [m for m in model.modules() if type(m).__name__.startswith("Fused")]
    fused, rotary = [type(m) for m in changed], modeling_llama.apply_rotary_pos_emb
    for module in changed:
        module.__class__ = type(module).__bases__[1]
    modeling_llama.apply_rotary_pos_emb = getattr(rotary, "plain", rotary)
    yield
    for module, kind in zip(changed, fused, strict=True):
        module.__class__ = kind
    modeling_llama.apply_rotary_pos_emb = rotary


def requests_of(loaded: Any, answerer: Answerer, tiles: list[int]) -> list[Request]:
    from internvl_detect.model.prompts import encode_question

    rng = np.random.default_rng(0)
    side = loaded.tile_px
    made = []
    for n in tiles:
        ids = encode_question(
            answerer.tokenizer, IMAGE_QUESTION, tiles_per_image=[n], tokens_per_tile=loaded.tokens_per_tile
        )
        made.append(Request(ids, rng.integers(0, 255, (n, side, side, 3), dtype=np.uint8)))
    return made


def detection(loaded: Any, c: dict[str, float], ceiling: float, quick: bool) -> Iterator[dict[str, Any]]:
    """Score alone, and score with 64 words, by batch; the plain way is one picture at a time by ``generate``."""
    answerer = Answerer(loaded)
    words = 8 if quick else 64
    seven = requests_of(loaded, answerer, [7] * 32)
    length = len(seven[0].input_ids)
    ids = torch.tensor([seven[0].input_ids], device=DEVICE)

    def plain(n: int) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> None:
            pixels = answerer._pixels(seven[0].tiles)
            out = loaded.model.generate(
                input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=n, min_new_tokens=n, eos_token_id=None, pad_token_id=2,
            )  # fmt: skip
            answerer.tokenizer.decode(out[0, length:])

        return run

    def row(name: str, work: Callable[[], Any], batch: int, times: int, kinds: list[int], said: int) -> dict[str, Any]:
        found = timed(work, times, 1, way=name, batch=batch, words=said)
        if "seconds" in found:
            tokens = [length - (7 - n) * int(c["tokens_per_tile"]) for n in kinds]
            flops = sum(forward_flops(c, sum(kinds), tokens, batch).values())
            found |= {
                "pictures_per_s": round(batch / found["seconds"], 3),
                "tflop_prefill": round(flops / 1e12, 1),
                "share_of_ceiling": round(flops / found["seconds"] / 1e12 / ceiling, 4),
            }
        return found

    for n in (3, 16, words):
        yield row("plain: generate", plain(n), 1, 4, [7], n)
    for batch in (1, 8, 32):
        some = seven[:batch]

        def score(some: list[Request] = some) -> Any:
            return answerer.prefill(some, keep_cache=False)

        def say(some: list[Request] = some) -> Any:
            return answerer.words(answerer.prefill(some), words)

        @torch.inference_mode()
        def say_slowly(some: list[Request] = some) -> Any:
            state = answerer.prefill(some)
            return answerer._step_by_step(state, state.first_logits.argmax(-1), words)

        yield row("score", score, batch, 20 if batch == 1 else 4, [7] * batch, 0)
        yield row("score and words", say, batch, 3, [7] * batch, words)
        yield row("score and words, no graph", say_slowly, batch, 2, [7] * batch, words)
        answerer._decoder = None
    yield {"way": "profile", "batch": 32, "profile": kernels_of(lambda: answerer.prefill(seven, keep_cache=False))}
    mixed = [1 + i % 7 for i in range(32)]
    some = requests_of(loaded, answerer, mixed)
    yield row("score, 1 to 7 tiles padded", lambda: answerer.prefill(some, keep_cache=False), 32, 4, mixed, 0)
    jobs = [Job(str(i), None, [r], ["picture"], [], {}, [0.0]) for i, r in enumerate(some)]  # type: ignore[arg-type]

    def by_length() -> None:
        for group in groups_of([(job, 0) for job in jobs], 224):
            answerer.prefill([job.requests[0] for job, _ in group], keep_cache=False)

    yield row("score, 1 to 7 tiles by length", by_length, 32, 4, mixed, 0)
    if use_kernels(loaded.model, "auto"):
        yield row("score, fused kernels", lambda: answerer.prefill(seven, keep_cache=False), 32, 4, [7] * 32, 0)
    loaded.model = new_lora(loaded.model, LoraSettings()).eval()
    yield row("score, adapter", lambda: answerer.prefill(seven, keep_cache=False), 32, 4, [7] * 32, 0)
    with peft_layers(loaded.model):
        yield row("score, adapter by PEFT", lambda: answerer.prefill(seven, keep_cache=False), 32, 4, [7] * 32, 0)
    loaded.model = loaded.model.unload()


def commands(loaded: Any, pictures: int) -> dict[str, Any]:
    """Whole files through the detector, decoding and tiling included: pictures of 1344 x 896 px, seven tiles each."""
    with tempfile.TemporaryDirectory() as name:
        paths = []
        for i in range(pictures):
            rng = np.random.default_rng(i)
            coarse = Image.fromarray(rng.integers(0, 256, (14, 21, 3), dtype=np.uint8)).resize((1344, 896))
            noisy = np.asarray(coarse).astype(int) + rng.integers(-9, 10, (896, 1344, 3))
            path = Path(name) / f"{i}.jpg"
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=92)
            paths.append(path)
        detector = Detector(loaded)
        one = cut_tiles(open_image(paths[0]).rgb, detector.tiles)
        out: dict[str, Any] = {"tiles": len(one), "pictures": pictures}
        for batch, workers in ((1, 1), (8, 8), (32, 12)):
            some = paths[:4] if batch == 1 else paths
            run = lambda b=batch, w=workers, s=some: list(detector.detect_many(s, batch_size=b, workers=w))  # noqa: E731
            found = timed(run, 2, 1, batch=batch, workers=workers)
            if "seconds" in found:
                found["pictures_per_s"] = round(len(some) / found["seconds"], 3)
            out[f"batch {batch}"] = found
    return out


def vision(loaded: Any, c: dict[str, float], ceiling: float, quick: bool) -> Iterator[dict[str, Any]]:
    """The ViT alone by batch, plain and compiled; the language model's prefill alone, and one decoding step."""
    tower = loaded.model.model.vision_tower
    text = loaded.model.model.language_model
    kind = loaded.dtype
    side = loaded.tile_px

    def row(name: str, work: Callable[[], Any], n: int, flops: float, warm: int = 2) -> dict[str, Any]:
        with torch.inference_mode():
            found = timed(work, 5, warm, part=name, n=n)
        if "seconds" in found and flops:
            found["share_of_ceiling"] = round(flops / found["seconds"] / 1e12 / ceiling, 4)
            found["tflops"] = round(flops / found["seconds"] / 1e12, 1)
        return found

    for n in (7, 64, 224):
        tiles = torch.randn(n, 3, side, side, device=DEVICE, dtype=kind)
        yield row("ViT", lambda tiles=tiles: tower(tiles), n, n * c["vit_per_tile"])
    for count in (1, 8):
        length = 7 * int(c["tokens_per_tile"]) + 70
        hidden = torch.randn(count, length, text.config.hidden_size, device=DEVICE, dtype=kind)
        flops = forward_flops(c, 0, [length] * count, 0)["language"]
        yield row("language", lambda x=hidden: text(inputs_embeds=x, use_cache=False), count, flops)
    out = text(inputs_embeds=hidden[:1], use_cache=True)
    step = hidden[:1, :1]
    bytes_ = c["language_bytes_bf16"]

    def decode() -> Any:
        return text(inputs_embeds=step, past_key_values=out.past_key_values, use_cache=True)

    found = row("one token, batch 1", decode, 1, 0.0)
    if "seconds" in found:
        found["tb_s"] = round(bytes_ / found["seconds"] / 1e12, 3)
    yield found
    if not CUDA or quick:
        return
    tiles = torch.randn(64, 3, side, side, device=DEVICE, dtype=kind)
    compiled = torch.compile(tower)
    began = time.perf_counter()
    found = row("ViT, torch.compile", lambda: compiled(tiles), 64, 64 * c["vit_per_tile"], 3)
    yield found | {"with_compiling_s": round(time.perf_counter() - began, 1)}
    few = tiles[:7].clone()
    graph, _ = captured(lambda: tower(few).last_hidden_state)
    yield row("ViT, CUDA graph", graph.replay, 7, 7 * c["vit_per_tile"])
    whole = hidden[:1].clone()
    compiled = torch.compile(text)
    began = time.perf_counter()
    flops = forward_flops(c, 0, [length], 0)["language"]
    found = row("language, torch.compile", lambda: compiled(inputs_embeds=whole, use_cache=False), 1, flops, 3)
    yield found | {"with_compiling_s": round(time.perf_counter() - began, 1)}


@torch.inference_mode()
def captured(work: Callable[[], Any]) -> tuple[Any, Any]:
    """A CUDA graph of ``work`` (its inputs stay where they are) and its output."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()
    return graph, out


@torch.no_grad()
def parity(reference: Path) -> Iterator[dict[str, Any]]:
    """Largest difference of logits to the original's stored fp32 answers, by type and attention kernel."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for kind in ("float32", "bfloat16"):
        for attention in ("eager", "sdpa", *KERNELS):
            stack = contextlib.ExitStack()
            if attention in KERNELS:
                stack.enter_context(sdpa_kernel(KERNELS[attention]))
            row: dict[str, Any] = {"dtype": kind, "attention": attention}
            attn = "eager" if attention == "eager" else "sdpa"
            try:
                model = load_base(reference / "tiny56" / "checkpoint", attn=attn, dtype=kind, device=DEVICE).model
                with stack:
                    for name in ("text", "image1", "image7", "video8", "batch_right"):
                        with np.load(reference / "tiny56" / f"case_{name}.npz") as stored:
                            case = {k: torch.from_numpy(np.asarray(stored[k])).to(DEVICE) for k in stored.files}
                        keys = ("input_ids", "pixel_values", "attention_mask")
                        out = model(**{k: case[k] for k in keys if k in case}).logits.float()
                        mask = case.get("attention_mask", torch.ones_like(case["input_ids"])).bool()
                        row[name] = float(f"{(out - case['logits'])[mask].abs().max().item():.3g}")
            except Exception as error:  # noqa: BLE001 - a kernel that does not take this type or head size
                row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
            yield row


def rows_of_samples() -> dict[str, Any]:
    """All samples of a row in one kernel, and one by one, against float64: relative errors of output and gradients."""
    from internvl_detect.train.attention import attend_by_sample

    torch.manual_seed(0)
    lengths = (5, 700, 1, 333, 64)
    given = [torch.randn(1, heads, sum(lengths), 128, device=DEVICE, dtype=torch.bfloat16) for heads in (32, 8, 8)]
    module: Any = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 4, True

    def run(kind: torch.dtype) -> list[Any]:
        parts = [t.to(kind, copy=True).requires_grad_(True) for t in given]
        out, _ = attend_by_sample(module, *parts, None, segments=lengths, scaling=128**-0.5)
        out.backward(torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape).to(kind))
        return [out.detach(), *(p.grad for p in parts)]

    exact = run(torch.float64)

    def errors() -> list[float]:
        ours = run(torch.bfloat16)
        return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(ours, exact, strict=True)]

    found = {}
    for name, few in (("one kernel", 0), ("one by one", 10**6)):
        with sample_by_sample(few):
            found[name] = errors()
    return found


def trained_by_command(folder: Path, work: Path, steps: int) -> dict[str, Any]:
    """``ivdetect train`` as a user starts it: forged samples of the package, the default recipe, a few steps."""
    from internvl_detect.config import load_train_config
    from internvl_detect.data.samples.sample_set import make_sample_set
    from internvl_detect.train.finetune import run

    meta = make_sample_set(work / "samples", pairs=32, test_pairs=4)
    sets = [f"data_path={meta}", f"weight_path={folder}", f"output_dir={work / 'run'}", f"max_steps={steps}"]
    sets += ["batch_size=32", "train_data_choice=samples_train", "tensorboard=false", "workers=4"]
    if not CUDA:
        sets += ["precision=fp32"]
    clear()
    result = run(load_train_config(None, sets, {}))
    log = [json.loads(line) for line in (work / "run" / "train_log.jsonl").read_text().splitlines()]
    at = [row["time_s"] for row in log if "loss" in row]
    return {
        "steps": result.steps,
        "seconds": result.seconds,
        "losses": [row["loss"] for row in log if "loss" in row],
        "samples_per_s_after_the_first_step": round(32 * (len(at) - 1) / (at[-1] - at[0]), 3) if len(at) > 1 else None,
        "gib": peak_gib(),
        "adapter_mb": round(sum(f.stat().st_size for f in Path(str(result.adapter)).iterdir()) / 1e6, 1),
    }


# ---- the run -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the sections, print a short table last, write the result after every section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("h200.json"))
    parser.add_argument("--size", choices=list(SIZES), default="8b" if CUDA else "small")
    parser.add_argument("--only", default="parity,rows of samples,training,detection,commands,vision,train command")
    parser.add_argument("--reference", type=Path, help="folder with the original code's answers")
    args = parser.parse_args()
    quick = args.size == "small"
    result: dict[str, Any] = {"what": f"InternVL2 geometry {args.size}, random weights, bf16", "machine": machine()}
    wanted = [name.strip() for name in args.only.split(",")]
    began = time.perf_counter()

    def section(name: str, work: Callable[[], Any]) -> Any:
        if name not in wanted and name not in ("ceilings", "checkpoint", "loading"):
            return None
        start, value = time.perf_counter(), None
        rows: list[dict[str, Any]] = []
        try:
            value = work()
            if isinstance(value, Iterator):
                for row in value:
                    rows.append(row)
                    print(f"  {brief(row)}", flush=True)
                value = rows
            result[name] = value[1] if isinstance(value, tuple) else value
        except Exception as error:  # noqa: BLE001 - the other sections still count
            result[name] = rows
            result.setdefault("failed", {})[name] = f"{type(error).__name__}: {str(error)[:300]}"
            traceback.print_exc()
        result.setdefault("section_s", {})[name] = round(time.perf_counter() - start, 1)
        print(f"== {name}: {result['section_s'][name]} s", flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        clear()
        return value

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        section("ceilings", ceilings)
        ceiling = result["ceilings"]["bf16_tflops"]
        if args.reference:
            section("parity", lambda: parity(args.reference))
        section("rows of samples", rows_of_samples)
        section("checkpoint", lambda: random_checkpoint(folder, args.size))
        held = [section("loading", lambda: loading(folder))[0]]
        c = result["counts"] = counts(held[0].config)
        section("training", lambda: training(held[0], c, ceiling, quick))
        section("detection", lambda: detection(held[0], c, ceiling, quick))
        section("commands", lambda: commands(held[0], 8 if quick else 96))
        section("vision", lambda: vision(held[0], c, ceiling, quick))
        held.clear()
        section("train command", lambda: trained_by_command(folder, Path(temporary), 2 if quick else 6))
    result["total_s"] = round(time.perf_counter() - began, 1)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    table(result)


def machine() -> dict[str, Any]:
    import transformers

    name = torch.cuda.get_device_name() if CUDA else f"{platform.machine()}, no GPU"
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}


def brief(row: dict[str, Any]) -> str:
    """A row in one line, and a line for each kernel of its profile."""
    hidden = ("profile", "fastest", "slowest", "times", "trainable_parameters")
    lines = ["  ".join(f"{k} {v}" for k, v in row.items() if k not in hidden)]
    return "\n    ".join(lines + [" ".join(map(str, kernel.values())) for kernel in row.get("profile", ())])


def table(result: dict[str, Any]) -> None:
    """The short table that comes last."""
    limits = result["ceilings"]
    print(f"\n{result['machine']['device']}: {limits['bf16_tflops']:.0f} TFLOP/s bf16, {limits['copy_tb_s']:.2f} TB/s")
    for row in result.get("training", []):
        if "seconds" in row:
            print(
                f"train {row['load']:12} x{row['micro_batch']} {'again' if row['checkpointing'] else 'kept '} "
                f"{row['samples_per_s']:7.2f} samples/s {row['tokens_per_s']:6} tokens/s MFU {row['mfu']:.2f} "
                f"HFU {row['hfu']:.2f} {row['gib']} GiB"
            )
    for row in result.get("detection", []):
        if "seconds" in row:
            print(
                f"{row['way']:30} batch {row['batch']:2} words {row['words']:2} {row['pictures_per_s']:7.2f} "
                f"pictures/s {row['share_of_ceiling']:.2f} of the ceiling {row['gib']} GiB"
            )
    print(f"{result['total_s']} s; failed: {result.get('failed', 'nothing')}")


if __name__ == "__main__":
    main()
