"""LoRA adapters: make new ones, put stored ones on a base, save them with their settings, merge them.

Stored adapters may be native PEFT folders or the original code's (``lora_names``). Not here: training them.

    ivdetect merge InternVL2-8B runs/mine/adapter InternVL2-8B-mine
"""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from internvl_detect.errors import AdapterError
from internvl_detect.model.folder import FLOATS, Shards, open_shards, read_json
from internvl_detect.model.lora_names import is_native, strip_native, to_native
from internvl_detect.model.mask_files import has_mask, load_mask
from internvl_detect.model.parts import base_of
from internvl_detect.model.save import whole_folder
from internvl_detect.model.settings import FILE, AdapterSettings, adapter_label

if TYPE_CHECKING:
    from internvl_detect.model.checkpoint import LoadedModel

_LANGUAGE = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_VISION = (
    r"model\.vision_tower\.encoder\.layer\.\d+\."
    r"(attention\.([qkv]_proj|projection_layer)|mlp\.fc[12])"
)


@dataclass(frozen=True)
class LoraSettings:
    """The original's LoRA: rank ``r``, scale ``alpha / r``, dropout before A; on the language model, or both towers."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    share_qkv_a: bool = True
    targets: Literal["language", "vision", "language+vision"] = "language"


def new_lora(model: Any, settings: LoraSettings) -> Any:
    """Wrap a base with fresh LoRA layers (B is zero, so the answers are still the base's); only they are trainable."""
    from peft import LoraConfig

    from internvl_detect.model.lora_layers import share_qkv

    patterns = {"language": _LANGUAGE, "vision": _VISION, "language+vision": f"({_LANGUAGE}|{_VISION})"}
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=patterns[settings.targets],
        task_type="CAUSAL_LM",
    )
    wrapped = _wrap(model, config)
    if settings.share_qkv_a:
        share_qkv(wrapped)
    return wrapped


def trainable_parameters(model: torch.nn.Module) -> int:
    """How many numbers training changes; a shared A counts once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def attach_adapter(loaded: LoadedModel, folder: Path, *, trainable: bool = False) -> None:
    """Put a stored adapter on a loaded base, in place, and take over its settings.

    Raises AdapterError when the folder is no LoRA adapter, when its tensors do not fit the base, or when it says that
    it was trained on another base.
    """
    if loaded.settings.merged:
        raise AdapterError(
            f"{loaded.name} already holds the adapter {loaded.settings.merged}",
            expected="a base without one",
            do="leave --adapter out, or give the base that it was merged into",
        )
    settings = put_adapter(loaded, folder)
    if settings:
        loaded.settings = settings
    else:  # the base's calibration was not fitted on this adapter
        loaded.settings = dataclasses.replace(loaded.settings, calibration=None)
        loaded.notes.append(f"the adapter in {folder} has no {FILE}: asked with the base's tiling, and not calibrated")
    load_mask(loaded.model, folder)
    loaded.name += f"+{adapter_label(folder)}"
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(trainable and ".lora_" in name)


def put_adapter(loaded: LoadedModel, folder: Path, name: str = "default") -> AdapterSettings | None:
    """Put a stored adapter's LoRA layers on a loaded base, in place, as PEFT's adapter ``name``; give its settings.

    A second one is not switched on. Raises AdapterError as ``attach_adapter``.
    """
    file = folder / "adapter_config.json"
    said = read_json(file) if file.is_file() else {}
    if said.get("peft_type") != "LORA":
        raise AdapterError(
            f"{folder} is no LoRA adapter",
            expected="a folder with adapter_config.json and adapter_model.safetensors",
            do="check the path of the adapter",
        )
    for key in ("use_dora", "modules_to_save", "layer_replication", "trainable_token_indices"):
        if said.get(key):
            raise AdapterError(f"the adapter in {folder} uses {key}", expected="plain LoRA")
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise AdapterError(f"{file} is missing", expected="LoRA weights as safetensors", do="pickles are not read")
    tensors = list(_adapter_shards(file).tensors())
    settings = AdapterSettings.read(folder) if (folder / FILE).is_file() else None
    base = settings.base_fingerprint if settings else None
    if base and base != loaded.fingerprint:
        raise AdapterError(
            f"the adapter in {folder} was trained on the base {settings.base_name or ''} ({base})",  # type: ignore[union-attr]
            expected=f"an adapter of {loaded.name} ({loaded.fingerprint})",
            do="give the base that it was trained on",
        )
    native = is_native(name for name, _ in tensors)
    factors = strip_native(tensors) if native else to_native(tensors, loaded.config)
    alpha = _number(said, "lora_alpha", 8, 1e-6, 1e6, folder)
    dropout = _number(said, "lora_dropout", 0.0, 0.0, 0.99, folder)
    if not isinstance(said.get("use_rslora", False), bool) or not isinstance(said.get("alpha_pattern") or {}, dict):
        raise AdapterError(
            f"{folder}/adapter_config.json has a wrong use_rslora or alpha_pattern", expected="PEFT's own"
        )
    share = settings.share_qkv_a if settings else not native
    _attach(loaded, factors, alpha, dropout, bool(said.get("use_rslora")), share, said, name)
    return settings


def attach_inner_lora(loaded: LoadedModel, config: Mapping[str, Any], shards: Shards) -> None:
    """Put the LoRA layers that lie inside a full original checkpoint on its base; alpha is twice the rank there."""
    factors = to_native(((n, t) for n, t in shards.tensors() if ".lora_" in n), loaded.config)
    ranks = {t.shape[0] for n, t in factors.items() if n.endswith(".lora_A")}
    said = {int(config.get(key) or 0) for key in ("use_llm_lora", "use_backbone_lora")} - {0}
    if said and ranks != said:
        raise AdapterError(
            f"the LoRA layers have rank {sorted(ranks)} and config.json says {sorted(said)}",
            expected="the same",
            do="check that weights and config.json come from one model",
        )
    _attach(loaded, factors, None, 0.05, False, True, {})


def save_adapter(model: Any, folder: Path, settings: AdapterSettings) -> None:
    """Write adapter_config.json, adapter_model.safetensors and ivdetect.json, as a whole folder or not at all."""
    with whole_folder(folder, replace=True) as temporary:
        model.save_pretrained(str(temporary))
        (temporary / "README.md").unlink(missing_ok=True)  # PEFT's model card names paths and says nothing
        file = temporary / "adapter_config.json"
        said = json.loads(file.read_text("utf-8"))
        said["base_model_name_or_path"] = settings.base_name or ""
        file.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", "utf-8")
        settings.write(temporary)


def merge(base: str | Path, adapter: str | Path, destination: str | Path) -> Path:
    """Write base and adapter as one native folder that needs neither PEFT nor this package; computed in float32."""
    from internvl_detect.model.checkpoint import load_base
    from internvl_detect.model.save import save_native

    if has_mask(Path(adapter)):
        raise AdapterError(
            f"the adapter in {adapter} draws masks, and a merged model has no place for its <SEG> row and head",
            expected="an adapter for words alone",
            do="use it as it is, with --adapter; or merge a copy of it without mask.safetensors and mask.json",
        )
    loaded = load_base(base, dtype="float32", device="cpu", adapter=adapter)
    stored = load_dtype(base)
    loaded.model = loaded.model.merge_and_unload().to(stored)
    label = loaded.name.partition("+")[2]
    loaded.settings = dataclasses.replace(loaded.settings, base_fingerprint=None, merged=label)
    return save_native(loaded, Path(destination))


def load_dtype(base: str | Path) -> torch.dtype:
    """The type that a folder's weights are stored in."""
    from internvl_detect.model.embedded import resolve

    found = {getattr(torch, FLOATS[d]) for d in open_shards(resolve(base, None)[0]).dtypes.values()}
    return next(iter(found)) if len(found) == 1 else torch.float32


def _number(said: Mapping[str, Any], key: str, default: float, low: float, high: float, folder: Path) -> float:
    value = said.get(key, default)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise AdapterError(
            f"{folder}/adapter_config.json: {key} is {value!r}", expected=f"a number, {low:g} to {high:g}"
        )
    return float(value)


def _adapter_shards(file: Path) -> Shards:
    return Shards((file,), {}, {}, {})


def _attach(
    loaded: LoadedModel,
    factors: dict[str, torch.Tensor],
    alpha: float | None,
    dropout: float,
    rslora: bool,
    share: bool,
    said: Mapping[str, Any],
    name: str = "default",
) -> None:
    """Put LoRA on just the modules that ``factors`` names and give each its tensors, strictly."""
    from peft import LoraConfig

    from internvl_detect.model.lora_layers import share_qkv

    modules = sorted({name.rpartition(".")[0] for name in factors})
    present = dict(base_of(loaded.model).named_modules())
    for module in modules:
        a, b = factors.get(f"{module}.lora_A"), factors.get(f"{module}.lora_B")
        linear = present.get(module)
        if a is None or b is None or linear is None:
            what = "no such layer in the base" if linear is None else "only one of lora_A and lora_B"
            raise AdapterError(f"{module}: {what}", do="give the base that the adapter was trained on")
        matrices = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] > 0
        if not matrices or (b.shape[0], a.shape[1]) != (linear.out_features, linear.in_features):
            raise AdapterError(
                f"the adapter's factors for {module} are {tuple(b.shape)} x {tuple(a.shape)}",
                expected=f"({linear.out_features}, r) x (r, {linear.in_features}) for this base",
                do="give the base that the adapter was trained on",
            )
    if not modules:
        raise AdapterError("the adapter holds no LoRA weights", expected="lora_A and lora_B of at least one layer")
    ranks = {m: factors[f"{m}.lora_A"].shape[0] for m in modules}
    rank = max(ranks.values())
    odd = {re.escape(m): r for m, r in ranks.items() if r != rank}
    patterns = {k: said[k] for k in ("alpha_pattern",) if said.get(k)}
    if alpha is None:  # the original's rule
        patterns["alpha_pattern"] = {m: 2 * r for m, r in odd.items()}
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules="|".join(re.escape(m) for m in modules),
        rank_pattern=odd,
        use_rslora=rslora,
        task_type="CAUSAL_LM",
        **patterns,
    )
    loaded.model = _wrap(loaded.model, config, name)
    wrapped = loaded.model.get_base_model()
    with torch.no_grad():
        for module in modules:
            layer = wrapped.get_submodule(module)
            for side in "AB":
                weight = getattr(layer, f"lora_{side}")[name].weight
                weight.copy_(factors[f"{module}.lora_{side}"].to(weight.dtype))
    if share and _one_a(factors):
        share_qkv(loaded.model, name)
    loaded.model.requires_grad_(False)


def _wrap(model: Any, config: Any, name: str = "default") -> Any:
    from peft import PeftModel, get_peft_model

    from internvl_detect.model.lora_layers import use_lean

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's of transformers' next version: nothing for a user
        if isinstance(model, PeftModel):
            wrapped = model
            wrapped.add_adapter(name, config)
        else:
            wrapped = get_peft_model(model, config, adapter_name=name)
    use_lean(wrapped)
    return wrapped


def _one_a(factors: dict[str, torch.Tensor]) -> bool:
    """Whether k and v have q's very A, so that sharing it changes nothing."""
    for name, q in factors.items():
        if name.endswith("q_proj.lora_A"):
            others = [factors.get(name.replace("q_proj", f"{p}_proj")) for p in "kv"]
            if any(o is None or not torch.equal(o, q) for o in others):
                return False
    return True
