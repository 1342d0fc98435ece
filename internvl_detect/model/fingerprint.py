"""A short name for a base model's content, the same in every form, dtype and device it is loaded in.

It ties an adapter to its base. Made from the geometry and from rows that no adapter and no quantization touches, in
bfloat16; so it tells models apart, and is no proof against somebody who forges them.
"""

from __future__ import annotations

import hashlib

import torch


@torch.no_grad()
def fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits; for a model on the meta device those of its geometry alone."""
    digest = hashlib.sha256()
    embeddings = model.get_input_embeddings().weight
    norms = [(n, p) for n, p in model.named_parameters() if p.ndim == 1 and "norm" in n]
    for name, tensor in [("embed", embeddings[:64]), ("embed_end", embeddings[-64:]), *norms]:
        digest.update(f"{name} {tuple(tensor.shape)} {tuple(embeddings.shape)}\n".encode())
        if not tensor.is_meta:
            content = tensor.detach().to("cpu", torch.bfloat16).contiguous()
            digest.update(content.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
