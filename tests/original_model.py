"""InternVL2's forward pass written out over the original tensors, in plain torch: the tests' independent oracle.

Slow and direct on purpose; it follows the published description (InternViT, pixel shuffle v2, InternLM2, Llama, Qwen2),
not the classes it is compared with. Also makes small random checkpoints in the original format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

VOCAB = 96


def make_config(**over: Any) -> dict[str, Any]:
    """A small original ``config.json``; keys of ``over`` go to the tower that has them, by prefix v_ or t_."""
    vision = {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 56,
        "patch_size": 14,
        "num_channels": 3,
        "hidden_act": "gelu",
        "norm_type": "layer_norm",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "qk_normalization": False,
        "initializer_factor": 1.0,
        "dropout": 0.0,
    }
    text = {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 40,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
    }
    for key, value in over.items():
        (vision if key.startswith("v_") else text)[key[2:]] = value
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": "internlm2-chat",
        "ps_version": "v2",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": vision["image_size"],
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "use_thumbnail": True,
        "use_llm_lora": 0,
        "use_backbone_lora": 0,
        "vision_config": vision,
        "llm_config": text,
    }


def make_tensors(
    config: dict[str, Any], seed: int = 0, draw: Callable[..., torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Random tensors under the original's names; norms near one, everything else of a size that matters.

    ``draw`` gives standard normal numbers of a shape; another one may put them on a GPU.
    """
    rng = torch.Generator().manual_seed(seed)
    normal = draw or (lambda *shape: torch.randn(*shape, generator=rng))
    v, t = config["vision_config"], config["llm_config"]
    out: dict[str, torch.Tensor] = {}

    def put(name: str, *shape: int, about: float = 0.0) -> None:
        scale = 0.2 if about else 1.0 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.2
        out[name] = about + scale * normal(*shape)

    d, m = v["hidden_size"], v["intermediate_size"]
    side = v["image_size"] // v["patch_size"]
    put("vision_model.embeddings.class_embedding", 1, 1, d)
    put("vision_model.embeddings.position_embedding", 1, side * side + 1, d)
    put("vision_model.embeddings.patch_embedding.weight", d, 3, v["patch_size"], v["patch_size"])
    put("vision_model.embeddings.patch_embedding.bias", d)
    for i in range(v["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{i}."
        put(at + "attn.qkv.weight", 3 * d, d)
        if v["qkv_bias"]:
            put(at + "attn.qkv.bias", 3 * d)
        if v["qk_normalization"]:
            put(at + "attn.q_norm.weight", d, about=1.0)
            put(at + "attn.k_norm.weight", d, about=1.0)
        put(at + "attn.proj.weight", d, d)
        put(at + "attn.proj.bias", d)
        for norm in ("norm1", "norm2"):
            put(f"{at}{norm}.weight", d, about=1.0)
            if v["norm_type"] == "layer_norm":
                put(f"{at}{norm}.bias", d)
        put(at + "ls1", d, about=1.0)
        put(at + "ls2", d, about=1.0)
        put(at + "mlp.fc1.weight", m, d)
        put(at + "mlp.fc1.bias", m)
        put(at + "mlp.fc2.weight", d, m)
        put(at + "mlp.fc2.bias", d)
    h, n = t["hidden_size"], t["num_attention_heads"]
    kv, f = t["num_key_value_heads"], t["intermediate_size"]
    put("mlp1.0.weight", 4 * d, about=1.0)
    put("mlp1.0.bias", 4 * d)
    put("mlp1.1.weight", h, 4 * d)
    put("mlp1.1.bias", h)
    put("mlp1.3.weight", h, h)
    put("mlp1.3.bias", h)
    own = "InternLM2" in t["architectures"][0]
    root = "language_model.model."
    put(root + ("tok_embeddings.weight" if own else "embed_tokens.weight"), t["vocab_size"], h)
    if not t["tie_word_embeddings"]:
        put("language_model." + ("output.weight" if own else "lm_head.weight"), t["vocab_size"], h)
    put(root + "norm.weight", h, about=1.0)
    head = h // n
    for i in range(t["num_hidden_layers"]):
        at = f"{root}layers.{i}."
        if own:
            put(at + "attention.wqkv.weight", (n + 2 * kv) * head, h)
            put(at + "attention.wo.weight", h, h)
            if t["bias"]:
                put(at + "attention.wqkv.bias", (n + 2 * kv) * head)
                put(at + "attention.wo.bias", h)
            put(at + "feed_forward.w1.weight", f, h)
            put(at + "feed_forward.w3.weight", f, h)
            put(at + "feed_forward.w2.weight", h, f)
            put(at + "attention_norm.weight", h, about=1.0)
            put(at + "ffn_norm.weight", h, about=1.0)
            continue
        for part, rows in (("q", n * head), ("k", kv * head), ("v", kv * head)):
            put(f"{at}self_attn.{part}_proj.weight", rows, h)
            if "Qwen2" in t["architectures"][0]:
                put(f"{at}self_attn.{part}_proj.bias", rows)
        put(at + "self_attn.o_proj.weight", h, h)
        put(at + "mlp.gate_proj.weight", f, h)
        put(at + "mlp.up_proj.weight", f, h)
        put(at + "mlp.down_proj.weight", h, f)
        put(at + "input_layernorm.weight", h, about=1.0)
        put(at + "post_attention_layernorm.weight", h, about=1.0)
    return out


def write_checkpoint(
    folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], *, shards: int = 1, index: bool = True
) -> Path:
    """Write an original folder of one or several safetensors files, with or without an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    home = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        part = {name: tensors[name].contiguous() for name in names[i::shards]}
        save_file(part, str(folder / file), metadata={"format": "pt"})
        home |= dict.fromkeys(part, file)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": home}))
    return folder


def forward(
    config: dict[str, Any], w: dict[str, torch.Tensor], ids: torch.Tensor, pixels: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits (T, V) of one sequence of token ids (T,), with tiles (N, 3, S, S) in the places of ``<IMG_CONTEXT>``."""
    t = config["llm_config"]
    own = "InternLM2" in t["architectures"][0]
    root = "language_model.model."
    table = w[root + ("tok_embeddings.weight" if own else "embed_tokens.weight")]
    x = table[ids].clone()
    if pixels is not None:
        x[ids == t["vocab_size"] - 7] = picture_tokens(config, w, pixels).reshape(-1, x.shape[-1])
    n, kv = t["num_attention_heads"], t["num_key_value_heads"]
    head = t["hidden_size"] // n
    cos, sin = _rotary(len(ids), head, t["rope_theta"], t.get("rope_scaling"))
    causal = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
    for i in range(t["num_hidden_layers"]):
        at = f"{root}layers.{i}."
        y = _rms(x, w[at + ("attention_norm" if own else "input_layernorm") + ".weight"], t["rms_norm_eps"])
        if own:
            fused = F.linear(y, w[at + "attention.wqkv.weight"], w.get(at + "attention.wqkv.bias"))
            fused = fused.view(len(ids), kv, n // kv + 2, head)
            q = fused[:, :, :-2].reshape(len(ids), n, head)
            k, v = fused[:, :, -2], fused[:, :, -1]
            out, bias = w[at + "attention.wo.weight"], w.get(at + "attention.wo.bias")
        else:
            q, k, v = (
                F.linear(y, w[f"{at}self_attn.{p}_proj.weight"], w.get(f"{at}self_attn.{p}_proj.bias")).view(
                    len(ids), -1, head
                )
                for p in "qkv"
            )
            out, bias = w[at + "self_attn.o_proj.weight"], None
        q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        k, v = (z.repeat_interleave(n // kv, dim=1) for z in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(head) + causal
        y = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(len(ids), -1)
        x = x + F.linear(y, out, bias)
        y = _rms(x, w[at + ("ffn_norm" if own else "post_attention_layernorm") + ".weight"], t["rms_norm_eps"])
        gate, up, down = ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2") if own else _MLP
        y = F.silu(y @ w[f"{at}{gate}.weight"].T) * (y @ w[f"{at}{up}.weight"].T)
        x = x + y @ w[f"{at}{down}.weight"].T
    x = _rms(x, w[root + "norm.weight"], t["rms_norm_eps"])
    return x @ w.get("language_model." + ("output" if own else "lm_head") + ".weight", table).T


_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def picture_tokens(config: dict[str, Any], w: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) tiles as (N, tokens, hidden) inputs of the language model."""
    v = config["vision_config"]
    d, n = v["hidden_size"], v["num_attention_heads"]
    root = "vision_model.embeddings."
    x = F.conv2d(pixels, w[root + "patch_embedding.weight"], w[root + "patch_embedding.bias"], v["patch_size"])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w[root + "class_embedding"].expand(len(x), 1, d), x], 1) + w[root + "position_embedding"]

    def norm(z: torch.Tensor, name: str) -> torch.Tensor:
        if v["norm_type"] == "rms_norm":
            return _rms(z, w[name + ".weight"], v["layer_norm_eps"])
        return F.layer_norm(z, (d,), w[name + ".weight"], w[name + ".bias"], v["layer_norm_eps"])

    for i in range(v["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{i}."
        q, k, val = F.linear(norm(x, at + "norm1"), w[at + "attn.qkv.weight"], w.get(at + "attn.qkv.bias")).chunk(3, -1)
        if v["qk_normalization"]:
            q, k = (_rms(z, w[f"{at}attn.{p}_norm.weight"], 1e-6) for z, p in ((q, "q"), (k, "k")))
        q, k, val = (z.view(*z.shape[:2], n, d // n) for z in (q, k, val))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(d // n)
        y = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), val).reshape(x.shape)
        x = x + w[at + "ls1"] * F.linear(y, w[at + "attn.proj.weight"], w[at + "attn.proj.bias"])
        y = F.gelu(F.linear(norm(x, at + "norm2"), w[at + "mlp.fc1.weight"], w[at + "mlp.fc1.bias"]))
        x = x + w[at + "ls2"] * F.linear(y, w[at + "mlp.fc2.weight"], w[at + "mlp.fc2.bias"])
    x = x[:, 1:]
    side = math.isqrt(x.shape[1])
    x = x.view(len(x), side, side, d)  # each token gathers a 2x2 block, row by row (v2)
    x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1).flatten(1, 2)
    x = F.layer_norm(x, (4 * d,), w["mlp1.0.weight"], w["mlp1.0.bias"], 1e-5)
    x = F.gelu(F.linear(x, w["mlp1.1.weight"], w["mlp1.1.bias"]))
    return F.linear(x, w["mlp1.3.weight"], w["mlp1.3.bias"])


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _rotary(length: int, head: int, theta: float, scaling: dict[str, Any] | None) -> tuple[torch.Tensor, torch.Tensor]:
    position = torch.arange(length).float()
    if scaling and scaling.get("type") == "linear":
        position = position / scaling["factor"]
    angle = position[:, None] * theta ** (-torch.arange(0, head, 2).float() / head)
    return angle.cos().repeat(1, 2)[:, None], angle.sin().repeat(1, 2)[:, None]


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin
