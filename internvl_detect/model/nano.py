"""The nano InternVL2: its shape, how it starts, and how it is written in the original checkpoint format.

A few million parameters in the very classes of the large models, so that everything can be tried without a download.
What makes so small a ViT learn traces in minutes is its start: the patch embedding is a set of whitened cosine
filters (every frequency of a 14 px patch has unit variance, so compression and decoders are as visible as content),
and the first MLP takes magnitudes of them. Not here: training (``train.finetune``), data (``train.nano_rows``).

    write_start("start", patches=rgb_patches)        # a folder that load_base opens
    write_original("nano", trained_model.state_dict(), config, tokenizer_model)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import InternVLConfig

from internvl_detect.errors import CheckpointError
from internvl_detect.media.tiles import MEAN, STD, TileSettings
from internvl_detect.model.convert import native_config, tensor_targets
from internvl_detect.model.embedded import ABOUT
from internvl_detect.model.settings import AdapterSettings

CONSTANT = 4  # channels of the patch embedding without a filter: through LayerNorm they tell a patch's strength
TILES = TileSettings(mode="native", tile_px=224, max_tiles=4, thumbnail=False)


@dataclass(frozen=True)
class Shape:
    """Sizes of a nano model. ``tokens`` counts the tokenizer's pieces and its nine added tokens."""

    tokens: int = 2313
    tile_px: int = 224
    patch_px: int = 14
    vision_width: int = 256
    vision_layers: int = 3
    vision_heads: int = 2
    vision_mlp: int = 1024
    width: int = 192
    layers: int = 3
    heads: int = 6
    kv_heads: int = 2
    mlp: int = 512


def original_config(shape: Shape) -> dict[str, Any]:
    """``config.json`` of the original format."""
    vision = {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": shape.vision_width,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": shape.vision_heads,
        "intermediate_size": shape.vision_mlp,
        "image_size": shape.tile_px,
        "patch_size": shape.patch_px,
        "num_channels": 3,
        "hidden_act": "gelu",
        "norm_type": "layer_norm",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "qk_normalization": False,
        "initializer_factor": 1.0,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "drop_path_rate": 0.0,
        "torch_dtype": "bfloat16",
    }
    language = {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "vocab_size": shape.tokens,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.mlp,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": "internlm2-chat",
        "force_image_size": shape.tile_px,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "dynamic_image_size": True,
        "use_thumbnail": TILES.thumbnail,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": TILES.max_tiles,
        "torch_dtype": "bfloat16",
        "vision_config": vision,
        "llm_config": language,
    }


def cosine_filters(patches: np.ndarray, width: int) -> tuple[Tensor, Tensor]:
    """Weight (width, 3, P, P) and bias (width,) of the patch embedding, from uint8 patches (N, P, P, 3) of photographs.

    Two-dimensional cosine (DCT-II) filters: all of the luminance's, then the lowest of two colour differences; each is
    scaled to unit variance and centred over the patches. The last CONSTANT channels are 1.
    """
    side = patches.shape[1]
    k, x = np.arange(side)[:, None], np.arange(side)[None]
    basis = np.cos(np.pi * (2 * x + 1) * k / (2 * side)) * np.sqrt(2 / side)
    basis[0] /= np.sqrt(2)
    order = sorted(((u, v) for u in range(side) for v in range(side)), key=lambda uv: (uv[0] + uv[1], uv))
    colours = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], np.float64)
    colours /= np.linalg.norm(colours, axis=1, keepdims=True)
    count = width - CONSTANT
    luminance = order[:count]
    chroma = [uv for uv in order[: (count - len(luminance) + 1) // 2] for _ in range(2)][: count - len(luminance)]
    chosen = [(0, uv) for uv in luminance] + [(1 + i % 2, uv) for i, uv in enumerate(chroma)]
    filters = np.stack([np.einsum("c,y,x->cyx", colours[c], basis[u], basis[v]) for c, (u, v) in chosen])
    pixels = (patches.astype(np.float64) / 255 - MEAN) / STD
    seen = pixels.transpose(0, 3, 1, 2).reshape(len(patches), -1) @ filters.reshape(count, -1).T  # (N, count)
    spread = np.maximum(seen.std(axis=0), 1e-3)
    weight = np.zeros((width, 3, side, side))
    weight[:count] = filters / spread[:, None, None, None]
    bias = np.ones(width)
    bias[:count] = -seen.mean(axis=0) / spread
    return torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32)


def initial_state(shape: Shape, patches: np.ndarray, seed: int = 0) -> dict[str, Tensor]:
    """All tensors of an untrained nano, float32, by their original names."""
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int, std: float) -> Tensor:
        return torch.randn(*size, generator=g) * std

    v, d = shape.vision_width, shape.width
    grid = shape.tile_px // shape.patch_px
    weight, bias = cosine_filters(patches, v)
    out = {
        "vision_model.embeddings.class_embedding": normal(1, 1, v, std=0.02),
        "vision_model.embeddings.position_embedding": normal(1, grid * grid + 1, v, std=0.05),
        "vision_model.embeddings.patch_embedding.weight": weight,
        "vision_model.embeddings.patch_embedding.bias": bias,
        "mlp1.0.weight": torch.ones(4 * v),
        "mlp1.0.bias": torch.zeros(4 * v),
        "mlp1.1.weight": normal(d, 4 * v, std=1 / math.sqrt(4 * v)),
        "mlp1.1.bias": torch.zeros(d),
        "mlp1.3.weight": normal(d, d, std=1 / math.sqrt(d)),
        "mlp1.3.bias": torch.zeros(d),
        "language_model.model.tok_embeddings.weight": normal(shape.tokens, d, std=0.1),
        "language_model.model.norm.weight": torch.ones(d),
        "language_model.output.weight": normal(shape.tokens, d, std=0.02),
    }
    for i in range(shape.vision_layers):
        layer = f"vision_model.encoder.layers.{i}."
        fc1 = normal(shape.vision_mlp, v, std=1 / math.sqrt(v))
        fc2 = normal(v, shape.vision_mlp, std=0.5 / math.sqrt(shape.vision_mlp))
        if i == 0:  # gelu(2x) + gelu(-2x) is close to |2x|: magnitudes of the filters, mixed at random
            fc1[:v], fc1[v : 2 * v] = 2 * torch.eye(v), -2 * torch.eye(v)
            fc2[:, v : 2 * v] = fc2[:, :v]
        out |= {
            layer + "attn.qkv.weight": normal(3 * v, v, std=1 / math.sqrt(v)),
            layer + "attn.qkv.bias": torch.zeros(3 * v),
            layer + "attn.proj.weight": normal(v, v, std=0.5 / math.sqrt(v)),
            layer + "attn.proj.bias": torch.zeros(v),
            layer + "mlp.fc1.weight": fc1,
            layer + "mlp.fc1.bias": torch.zeros(shape.vision_mlp),
            layer + "mlp.fc2.weight": fc2,
            layer + "mlp.fc2.bias": torch.zeros(v),
        }
        for norm in ("norm1", "norm2"):
            out |= {f"{layer}{norm}.weight": torch.ones(v), f"{layer}{norm}.bias": torch.zeros(v)}
        out |= {layer + "ls1": torch.ones(v), layer + "ls2": torch.ones(v)}
    head = d // shape.heads
    for i in range(shape.layers):
        layer = f"language_model.model.layers.{i}."
        out |= {
            layer + "attention.wqkv.weight": normal((shape.heads + 2 * shape.kv_heads) * head, d, std=1 / math.sqrt(d)),
            layer + "attention.wo.weight": normal(d, d, std=0.5 / math.sqrt(d)),
            layer + "feed_forward.w1.weight": normal(shape.mlp, d, std=1 / math.sqrt(d)),
            layer + "feed_forward.w3.weight": normal(shape.mlp, d, std=1 / math.sqrt(d)),
            layer + "feed_forward.w2.weight": normal(d, shape.mlp, std=0.5 / math.sqrt(shape.mlp)),
            layer + "attention_norm.weight": torch.ones(d),
            layer + "ffn_norm.weight": torch.ones(d),
        }
    return out


def to_original(state: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """A native state dict under the original names: the inverse of ``convert`` for this shape.

    Raises CheckpointError for a tensor that is missing.
    """
    config = native_config(original_config(shape))
    blank = initial_state(shape, np.zeros((2, shape.patch_px, shape.patch_px, 3), np.uint8))
    out = {}
    for name, like in blank.items():
        targets = tensor_targets(name, config)
        absent = [t for t, _ in targets if t not in state]
        if absent:
            raise CheckpointError(f"the trained model has no {absent[0]}", expected="a nano model, adapters merged")
        rows = torch.arange(like.shape[0])
        whole = torch.empty_like(like)
        for target, take in targets:
            value = state[target].detach().float().cpu()
            if take is None:
                whole = value.reshape(like.shape)
            else:
                whole[take(rows)] = value
        out[name] = whole
    return out


def write_original(
    folder: str | Path,
    state: Mapping[str, Tensor],
    shape: Shape,
    tokenizer_model: bytes,
    *,
    dtype: torch.dtype = torch.bfloat16,
    calibration: dict[str, Any] | None = None,
) -> Path:
    """Writes original tensors as a model folder: config.json, model.safetensors, tokenizer.model, ivdetect.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.to(dtype).contiguous() for name, t in state.items()}
    weights = folder / "model.safetensors"
    save_file(tensors, str(weights), metadata={"format": "pt"})
    weights.chmod(0o644)  # it is written for its owner alone, and a package carries the mode along
    (folder / "config.json").write_text(json.dumps(original_config(shape), indent=2) + "\n")
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    # It has never seen a prompt with several frames, so clips are scored frame by frame.
    settings = AdapterSettings(tiles=TILES, about=ABOUT, calibration=calibration, clip_score="frames", frame_tiles=2)
    settings.write(folder)
    return folder


def shape_of(config: InternVLConfig) -> Shape:
    """The Shape of a loaded nano model."""
    vision, text = config.vision_config, config.text_config
    return Shape(
        tokens=text.vocab_size,
        tile_px=int(vision.image_size[0]),
        patch_px=int(vision.patch_size[0]),
        vision_width=vision.hidden_size,
        vision_layers=vision.num_hidden_layers,
        vision_heads=vision.num_attention_heads,
        vision_mlp=vision.intermediate_size,
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        mlp=text.intermediate_size,
    )
