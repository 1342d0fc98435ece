"""Names and rows: how each tensor of an original InternVL2 checkpoint lies in transformers' own classes.

Pure functions over names, shapes and configs; nothing is loaded here (``checkpoint`` does that). One table serves
weights, biases and LoRA factors: an original module becomes one or more native ones, each taking some of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig, PretrainedConfig, Qwen2Config

from internvl_detect.errors import CheckpointError

Rows = Callable[[torch.Tensor], torch.Tensor]
Target = tuple[str, Rows | None]

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")
_VISION = "model.vision_tower."
_LANGUAGE = "model.language_model."
_VISION_LEAF = {
    "attn.proj": "attention.projection_layer",
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
}
_INTERNLM_LEAF = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_FIXED = {
    "vision_model.embeddings.class_embedding": _VISION + "embeddings.cls_token",
    "vision_model.embeddings.position_embedding": _VISION + "embeddings.position_embeddings",
    "vision_model.embeddings.patch_embedding": _VISION + "embeddings.patch_embeddings.projection",
    "mlp1.0": "model.multi_modal_projector.layer_norm",
    "mlp1.1": "model.multi_modal_projector.linear_1",
    "mlp1.3": "model.multi_modal_projector.linear_2",
    "language_model.model.tok_embeddings": _LANGUAGE + "embed_tokens",
    "language_model.model.embed_tokens": _LANGUAGE + "embed_tokens",
    "language_model.model.norm": _LANGUAGE + "norm",
    "language_model.output": "lm_head",
    "language_model.lm_head": "lm_head",
}


def native_config(original: Mapping[str, Any], *, image_token_id: int | None = None) -> InternVLConfig:
    """The native configuration of an original ``config.json``.

    ``image_token_id`` is the tokenizer's id of ``<IMG_CONTEXT>``; without one the place that InternVL2 gives it is
    taken, seven from the end of the vocabulary. Raises CheckpointError naming what has no exact native twin.
    """
    vision, language = (original.get(key) or {} for key in ("vision_config", "llm_config"))
    if not isinstance(vision, Mapping) or not isinstance(language, Mapping):
        raise CheckpointError("vision_config or llm_config is no object", expected="the config.json of InternVL2")
    _require(original, "ps_version", "v2", default="v1", why="pixel shuffle v1 has no native twin")
    _require(original, "select_layer", -1, default=-1, why="InternVL2 takes the ViT's last layer")
    _require(original, "downsample_ratio", 0.5, default=0.5, why="every InternVL2 model has it")
    image_px = _whole(vision, "image_size", "vision_config")
    if original.get("force_image_size") not in (None, image_px):
        raise CheckpointError(
            f"force_image_size is {original['force_image_size']} and vision_config.image_size is {image_px}",
            expected="both the same",
            do="use a checkpoint whose position embeddings were already resized",
        )
    patch_px = _whole(vision, "patch_size", "vision_config")
    side = image_px // patch_px
    if image_px % patch_px or side % 2:
        raise CheckpointError(
            f"tiles of {image_px} px do not divide into an even number of patches of {patch_px} px",
            expected="for example 448 px and 14 px",
        )
    qk_norm = bool(vision.get("qk_normalization", True))  # the original class's own default
    if qk_norm and vision.get("layer_norm_eps", 1e-6) != 1e-6:
        raise CheckpointError(
            f"qk_normalization with layer_norm_eps {vision['layer_norm_eps']}",
            expected="1e-6, which the native class has built in",
        )
    vision_config = InternVLVisionConfig(
        hidden_size=_whole(vision, "hidden_size", "vision_config"),
        num_hidden_layers=_whole(vision, "num_hidden_layers", "vision_config"),
        num_attention_heads=_whole(vision, "num_attention_heads", "vision_config"),
        intermediate_size=_whole(vision, "intermediate_size", "vision_config"),
        image_size=image_px,
        patch_size=patch_px,
        num_channels=_whole(vision, "num_channels", "vision_config", 3),
        hidden_act=_one_of(vision, "hidden_act", "vision_config", "gelu", ACTIVATIONS),
        norm_type=_one_of(vision, "norm_type", "vision_config", "rms_norm", ("rms_norm", "layer_norm")),
        layer_norm_eps=_real(vision, "layer_norm_eps", "vision_config", 1e-6, 1e-12, 1e-2),
        attention_bias=bool(vision.get("qkv_bias", False)),
        use_qk_norm=qk_norm,
        initializer_range=_real(vision, "initializer_range", "vision_config", 0.02, 0, 10),
        layer_scale_init_value=_real(vision, "initializer_factor", "vision_config", 0.1, 0, 10),
        use_mean_pooling=True,
        use_absolute_position_embeddings=True,
        use_mask_token=False,
        hidden_dropout_prob=0.0,
        attention_dropout=0.0,
        projection_dropout=0.0,
    )
    text_config = _text_config(language)
    vocab = text_config.vocab_size
    return InternVLConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_id=vocab - 7 if image_token_id is None else image_token_id,
        image_seq_length=side * side // 4,
        downsample_ratio=0.5,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=bool(language.get("tie_word_embeddings", False)),
    )


def tensor_targets(name: str, config: InternVLConfig) -> list[Target]:
    """Where the original tensor ``name`` goes: native names, each with the rows that it takes (None for all).

    Empty for buffers that are recomputed. Raises CheckpointError for a name that InternVL2 does not have.
    """
    if name.endswith("rotary_emb.inv_freq"):
        return []
    module, _, kind = name.rpartition(".")
    if kind in ("weight", "bias"):
        return [(f"{target}.{kind}", rows) for target, rows in module_targets(module, config)]
    return module_targets(name, config)


def module_targets(name: str, config: InternVLConfig) -> list[Target]:
    """Native module names of an original module, each with the rows that it takes of the original's output rows."""
    if name in _FIXED:
        return [(_FIXED[name], None)]
    if found := re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(.+)", name):
        layer, leaf = f"{_VISION}encoder.layer.{found[1]}.", found[2]
        if leaf == "attn.qkv":
            size = config.vision_config.hidden_size
            return [(f"{layer}attention.{p}_proj", _third(i, size)) for i, p in enumerate("qkv")]
        if leaf in _VISION_LEAF:
            return [(layer + _VISION_LEAF[leaf], None)]
    if found := re.fullmatch(r"language_model\.model\.layers\.(\d+)\.(.+)", name):
        layer, leaf = f"{_LANGUAGE}layers.{found[1]}.", found[2]
        if leaf == "attention.wqkv":
            return [(f"{layer}self_attn.{p}_proj", _grouped(p, config.text_config)) for p in "qkv"]
        if leaf in _INTERNLM_LEAF:
            return [(layer + _INTERNLM_LEAF[leaf], None)]
        if re.fullmatch(r"self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|(input|post_attention)_layernorm", leaf):
            return [(layer + leaf, None)]
    raise CheckpointError(
        f"the checkpoint holds {name!r}, which InternVL2 does not have",
        expected="the tensors of an InternVL2 model",
        do="check that all files come from one model",
    )


def _third(index: int, size: int) -> Rows:
    """Rows of q, k or v in the ViT's fused qkv, which is plainly q; k; v."""

    def rows(t: torch.Tensor) -> torch.Tensor:
        if t.shape[0] != 3 * size:
            raise CheckpointError(
                f"a fused attn.qkv of {t.shape[0]} rows", expected=f"{3 * size}, three times the ViT's width"
            )
        return t[index * size : (index + 1) * size]

    return rows


def _grouped(part: str, text: PretrainedConfig) -> Rows:
    """Rows of q, k or v in InternLM2's wqkv: for each key-value head [its queries x heads / kv heads, k, v]."""
    kv_heads = text.num_key_value_heads
    per = text.num_attention_heads // kv_heads

    def rows(t: torch.Tensor) -> torch.Tensor:
        if t.shape[0] % (kv_heads * (per + 2)):
            raise CheckpointError(
                f"a fused wqkv of {t.shape[0]} rows",
                expected=f"a multiple of {kv_heads * (per + 2)}, the heads of config.json",
            )
        groups = t.reshape(kv_heads, per + 2, -1, *t.shape[1:])  # (kv heads, q.. k v, head_dim, ...)
        chosen = groups[:, :per] if part == "q" else groups[:, per if part == "k" else per + 1]
        return chosen.reshape(-1, *t.shape[1:])

    return rows


def _text_config(language: Mapping[str, Any]) -> PretrainedConfig:
    kind = (language.get("architectures") or [language.get("model_type", "")])[0]
    heads = _whole(language, "num_attention_heads", "llm_config")
    shared = {
        "vocab_size": _whole(language, "vocab_size", "llm_config"),
        "hidden_size": _whole(language, "hidden_size", "llm_config"),
        "num_hidden_layers": _whole(language, "num_hidden_layers", "llm_config"),
        "intermediate_size": _whole(language, "intermediate_size", "llm_config"),
        "num_attention_heads": heads,
        "num_key_value_heads": _whole(language, "num_key_value_heads", "llm_config", heads),
        "hidden_act": _one_of(language, "hidden_act", "llm_config", "silu", ACTIVATIONS),
        "rms_norm_eps": _real(language, "rms_norm_eps", "llm_config", 1e-6, 1e-12, 1e-2),
        "max_position_embeddings": _whole(language, "max_position_embeddings", "llm_config", 32768),
        "rope_parameters": _rope(language),
        "bos_token_id": language.get("bos_token_id", 1),
        "eos_token_id": language.get("eos_token_id", 2),
        "pad_token_id": language.get("pad_token_id"),
        "tie_word_embeddings": bool(language.get("tie_word_embeddings", False)),
        "initializer_range": _real(language, "initializer_range", "llm_config", 0.02, 0, 10),
    }
    if kind in ("InternLM2ForCausalLM", "internlm2"):
        return LlamaConfig(**shared, attention_bias=bool(language.get("bias", True)), mlp_bias=False)
    if kind in ("LlamaForCausalLM", "llama"):
        bias = bool(language.get("attention_bias", False))
        return LlamaConfig(**shared, attention_bias=bias, mlp_bias=bool(language.get("mlp_bias", False)))
    if kind in ("Qwen2ForCausalLM", "qwen2"):
        if language.get("use_sliding_window"):
            raise CheckpointError("llm_config has use_sliding_window", expected="full attention")
        return Qwen2Config(**shared, use_sliding_window=False)
    reason = " (its long-context rotary scaling has not been shown to match)" if "Phi3" in kind else ""
    raise CheckpointError(
        f"the language model is {kind or 'not named'!r}{reason}",
        expected="InternLM2ForCausalLM, Qwen2ForCausalLM or LlamaForCausalLM",
        do="use InternVL2-1B, 2B, 8B, 26B, 40B or 76B",
    )


def _rope(language: Mapping[str, Any]) -> dict[str, Any]:
    theta = _real(language, "rope_theta", "llm_config", 10000.0, 1, 1e12)
    scaling = language.get("rope_scaling")
    if not scaling:
        return {"rope_type": "default", "rope_theta": theta}
    if not isinstance(scaling, Mapping):
        raise CheckpointError(f"llm_config.rope_scaling is {scaling!r:.80}", expected="an object with type and factor")
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "llama3":
        return {**scaling, "rope_type": kind, "rope_theta": theta}
    if kind not in ("dynamic", "linear"):
        raise CheckpointError(
            f"llm_config.rope_scaling is of type {kind!r}", expected="dynamic, linear, llama3 or none"
        )
    return {"rope_type": kind, "factor": _real(scaling, "factor", "rope_scaling", 1.0, 1, 1e6), "rope_theta": theta}


def _whole(config: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    """A whole number from 1 to what any model of the kind could have; larger ones would only exhaust memory."""
    value = default if config.get(key) is None else config[key]
    if value is None:
        raise CheckpointError(
            f"{where} has no {key!r}", expected="the config.json of an InternVL2 model", do="fetch config.json again"
        )
    most = {"num_hidden_layers": 1000, "vocab_size": 10**7, "max_position_embeddings": 10**8}.get(key, 10**6)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise CheckpointError(f"{where}.{key} is {value!r:.80}", expected=f"a whole number from 1 to {most}")
    return value


def _real(config: Mapping[str, Any], key: str, where: str, default: float, low: float, high: float) -> float:
    value = default if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise CheckpointError(f"{where}.{key} is {value!r:.80}", expected=f"a number from {low:g} to {high:g}")
    return float(value)


def _one_of(config: Mapping[str, Any], key: str, where: str, default: str, known: tuple[str, ...]) -> str:
    value = config.get(key, default)
    if value not in known:
        raise CheckpointError(f"{where}.{key} is {value!r:.80}", expected=" or ".join(known))
    return str(value)


def _require(config: Mapping[str, Any], key: str, wanted: Any, *, default: Any, why: str) -> None:
    found = config.get(key, default)
    if found != wanted:
        raise CheckpointError(f"{key} is {found!r}", expected=f"{wanted!r}, as {why}", do="use an InternVL2 checkpoint")
