"""The mask head on SAM (Kirillov et al., arXiv 2304.02643), prompted by ``<SEG>`` in the manner of LISA (2308.00692).

SAM's image encoder stays frozen and in its own folder, named by path and fingerprint; its mask decoder is copied,
trained and stored with the adapter. The projected state at ``<SEG>`` stands where SAM expects points or boxes. Any
SamModel folder of transformers serves (ViT-B, ViT-L, ViT-H). Not here: files (``mask_files``), training
(``train.mask``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder

from internvl_detect.errors import AdapterError, CheckpointError, IvdetectError
from internvl_detect.media.connected import Box
from internvl_detect.media.tiles import MEAN, STD
from internvl_detect.model.folder import no_bars, open_shards, read_json
from internvl_detect.model.mask import Size

# Numbers of the decoder that mask.json holds, and the largest that is believed.
_SIZES = {"hidden_size": 4096, "mlp_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 64}
_SIZES |= {"attention_downsample_rate": 16, "num_multimask_outputs": 32, "iou_head_depth": 16}
_SIZES |= {"iou_head_hidden_dim": 4096}


def open_sam(folder: str | Path) -> SamModel:
    """A SAM from a folder of transformers' own format, safetensors only. Raises CheckpointError."""
    place = Path(folder)
    said = read_json(place / "config.json")
    if said.get("model_type") != "sam":
        raise CheckpointError(
            f"{place}/config.json is of a {said.get('model_type')!r:.80}",
            expected="sam: a folder such as facebook/sam-vit-base, sam-vit-large or sam-vit-huge",
        )
    open_shards(place)  # refuses pickles, in words
    try:
        with no_bars():
            model, info = SamModel.from_pretrained(
                str(place), local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
    except IvdetectError:
        raise
    except Exception as error:  # noqa: BLE001 - transformers raises many kinds for a stranger's folder
        raise CheckpointError(f"{place} cannot be loaded ({error})", do="download it again") from error
    odd = sorted(str(k) for what in ("missing_keys", "mismatched_keys") for k in info.get(what) or ())
    if odd:
        raise CheckpointError(f"{place} lacks {len(odd)} tensors, first {odd[0]}", do="download it again")
    model.eval().requires_grad_(False)
    return model


@dataclass(frozen=True)
class SamEyes:
    """What the head on SAM sees: the frozen image encoder of the folder ``path``, which takes squares of ``px``."""

    encoder: Any
    px: int
    path: str

    @classmethod
    def of(cls, sam: SamModel, path: str | Path, device: torch.device) -> SamEyes:
        """The encoder alone, on ``device``; in bfloat16 on a GPU."""
        kind = torch.bfloat16 if device.type == "cuda" else torch.float32
        return cls(sam.vision_encoder.to(device, kind), int(sam.config.vision_config.image_size), str(path))

    @torch.no_grad()
    def see(self, picture: Image.Image) -> tuple[Tensor, ...]:
        """(C, s, s): its embeddings of the picture, padded to a square."""
        first = next(self.encoder.parameters())
        pixels = torch.from_numpy(prepare(picture, self.px)).to(first.device, first.dtype)
        return (self.encoder(pixels[None]).last_hidden_state[0],)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over shapes, norms and biases of the encoder, whatever its type and device."""
        digest = hashlib.sha256()
        for name, tensor in self.encoder.named_parameters():
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            if tensor.ndim == 1:
                digest.update(tensor.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def about(self) -> dict[str, Any]:
        """For mask.json: which SAM it is."""
        return {"sam": {"path": self.path, "fingerprint": self.fingerprint}}


def eyes_of(about: Mapping[str, Any], path: str | Path | None, device: torch.device) -> SamEyes:
    """The encoder that mask.json names, or the one at ``path``. Raises AdapterError unless it is that one."""
    said = about.get("sam")
    if not isinstance(said, dict) or not isinstance(said.get("path"), str):
        raise AdapterError("mask.json does not say which SAM its head needs", expected='"sam": {"path", "fingerprint"}')
    place = str(path or said["path"])
    if not Path(place).is_dir():
        raise AdapterError(
            f"the mask needs the SAM in {place}, and that is no folder",
            expected=f"the SAM it was trained with ({said.get('fingerprint')!s:.80})",
            do="put it there, or correct sam.path in mask.json",
        )
    eyes = SamEyes.of(open_sam(place), place, device)
    if said.get("fingerprint") not in (None, eyes.fingerprint):
        raise AdapterError(
            f"{place} holds the SAM {eyes.fingerprint}",
            expected=f"{said['fingerprint']!s:.80}, which the mask was trained with",
        )
    return eyes


def scaled(size: Size, px: int) -> Size:
    """The size of a picture whose longer side becomes ``px``; no side below 1."""
    width, height = size
    factor = px / max(width, height)
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def prepare(picture: Image.Image, px: int) -> np.ndarray:
    """(3, px, px) float32: longer side to ``px`` (bilinear), ImageNet's mean and deviation, zeros right and below."""
    resized = picture.convert("RGB").resize(scaled(picture.size, px), Image.Resampling.BILINEAR)
    values = (np.asarray(resized, np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    whole = np.zeros((3, px, px), np.float32)
    whole[:, : values.shape[0], : values.shape[1]] = values.transpose(2, 0, 1)
    return whole


class SamHead(nn.Module):
    """SAM's mask decoder with a projection of ``<SEG>``; ``width``: of the language model, ``px``: SAM's input."""

    kind = "sam"

    def __init__(self, decoder: Mapping[str, Any], px: int, width: int) -> None:
        super().__init__()
        self.px = px
        config = SamMaskDecoderConfig(**decoder)
        config._attn_implementation = "sdpa"
        hidden = config.hidden_size
        self.decoder = SamMaskDecoder(config)
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, hidden))
        self.register_buffer("no_mask", torch.zeros(hidden))  # SAM's embedding of "no mask given"
        self.register_buffer("frequencies", torch.zeros(2, hidden // 2))  # of its positions

    @classmethod
    def of_sam(cls, sam: SamModel, width: int) -> SamHead:
        """A head that starts as the decoder of a whole SAM."""
        given = sam.config.mask_decoder_config.to_dict()
        head = cls({k: given[k] for k in (*_SIZES, "hidden_act")}, int(sam.config.vision_config.image_size), width)
        head.decoder.load_state_dict(sam.mask_decoder.state_dict())
        head.no_mask.copy_(sam.prompt_encoder.no_mask_embed.weight[0])
        head.frequencies.copy_(sam.shared_image_embedding.positional_embedding)
        return head

    @classmethod
    def of(cls, about: Mapping[str, Any], width: int) -> SamHead:
        """From mask.json. Raises ValueError."""
        given, px = about.get("decoder"), about.get("image_px")
        if not isinstance(given, dict) or set(given) != {*_SIZES, "hidden_act"}:
            raise ValueError("decoder has other entries than SAM's")
        for key, value in [*given.items(), ("image_px", px)]:
            known = key == "hidden_act" and value in ("relu", "gelu")
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not known and not (whole and 1 <= value <= _SIZES.get(key, 4096)):
                raise ValueError(f"{key} {value!r:.80}")
        return cls(given, px, width)  # type: ignore[arg-type]

    @property
    def about(self) -> dict[str, Any]:
        """For mask.json."""
        given = self.decoder.config
        return {"image_px": self.px, "decoder": {k: getattr(given, k) for k in (*_SIZES, "hidden_act")}}

    def positions(self, side: int) -> Tensor:
        """(C, side, side): SAM's random Fourier features of the middles of the cells."""
        middles = (torch.arange(side, device=self.frequencies.device) + 0.5) / side * 2 - 1
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        angles = 2 * math.pi * (torch.stack([x, y], -1) @ self.frequencies)
        return torch.cat([angles.sin(), angles.cos()], -1).permute(2, 0, 1)

    def forward(
        self, seen: Sequence[Tensor], seg: Tensor, tokens: Tensor | None, boxes: Sequence[Box], size: Size
    ) -> Tensor:
        """Logits (h, w) of edited for a picture of ``size`` at SAM's scale, the padding cut off. ``seen``: of SamEyes;
        ``seg`` (D,). The tile tokens are not used."""
        embeddings = seen[0].to(seg.device).float()
        low, _ = self.decoder(
            image_embeddings=embeddings[None],
            image_positional_embeddings=self.positions(embeddings.shape[-1])[None],
            sparse_prompt_embeddings=self.project(seg.float())[None, None, None],
            dense_prompt_embeddings=self.no_mask[None, :, None, None].expand(1, *embeddings.shape),
            multimask_output=False,
        )
        whole = F.interpolate(low[0], size=(self.px, self.px), mode="bilinear", align_corners=False)[0, 0]
        width, height = scaled(size, self.px)
        return whole[:height, :width]

    def wanted(self, mask: Tensor) -> Tensor:
        """What the logits of a picture with this mask (H, W) of 0 and 1 are compared with: its share of each pixel."""
        width, height = scaled((mask.shape[1], mask.shape[0]), self.px)
        return F.interpolate(mask.float()[None, None], size=(height, width), mode="area")[0, 0]

    @staticmethod
    def drawn(logits: Tensor, size: Size) -> np.ndarray:
        """P(edited), float32 (H, W) in the picture's own pixels; the logits are resized, as SAM does."""
        given = logits.detach().float()[None, None]
        whole = F.interpolate(given, size=(size[1], size[0]), mode="bilinear", align_corners=False)[0, 0]
        drawn: np.ndarray = whole.sigmoid().cpu().numpy()
        return drawn
