"""The whole tree of the originals' README, from tiny drawn pictures: for tests of finding, choosing and training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

WITH_MASKS = {
    "photoshop": ["CASIAv2_Tp", "FR_Tp", "CASIAv1+_Tp", "IMD2020_Tp", "Columbia", "coverage", "NIST16", "DSO", "Korus"],
    "deepfake": ["FaceAPP_Train", "FaceAPP_Val"],
    "aigc": ["SD_inpaint_Train", "SD_inpaint_Val"],
}
WITHOUT = {
    "photoshop": ["CASIAv2_Au", "FR_Au", "CASIAv1+_Au", "IMD2020_Au"],
    "deepfake": ["FFHQ_Train", "FFHQ_Val"],
    "aigc": ["COCO2017_Train", "COCO2017_Val"],
}
UNSEEN = ("CASIAv1+_Tp", "CASIAv1+_Au", "IMD2020_Tp", "IMD2020_Au")
ON_THEIR_MACHINE = {
    "photoshop/CASIAv2_Tp": "/data/ps/CASIA2/image",
    "photoshop/CASIAv2_Au": "/data/ps/CASIA2_AU/image",
    "deepfake/FaceAPP_Train": "/data/df/FaceAPP/image",
    "deepfake/FFHQ_Train": "/data/df/FFHQ/image",
    "aigc/SD_inpaint_Train": "/data/aigc/SD_inpaint/image",
}
SAID = {
    True: "1. Whether the picture has been tampered with / Description of the tampered area: The picture has been "
    "tampered with, specifically in the middle.\n\n2. Judgment basis: The edges are too sharp.",
    False: "The picture has not been tampered with. Light and shadows agree.",
}


def draw(path: Path, seed: int, mask: Path | None) -> None:
    """A picture, and where ``mask`` is given a brighter box in it with its mask."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 150, 40)[None, :, None] + rng.integers(0, 60, (1, 1, 3))
    pixels = np.broadcast_to(ramp, (30, 40, 3)).copy()
    pixels[..., 2 if mask else 0] += 60
    if mask:
        marked = np.zeros((30, 40), np.uint8)
        marked[9:18, 8:28] = 255
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(marked).save(mask)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=95)


def build(root: Path, n: int = 3) -> Path:
    """Every folder of the tree with ``n`` pictures each, and MMTD-Set-34k.json about the pictures of five of them."""
    elements, seed = [], 0
    for masked, sets in ((True, WITH_MASKS), (False, WITHOUT)):
        for domain, names in sets.items():
            for name in names:
                for _ in range(n):
                    seed += 1
                    stem = f"{name.replace('+', '')}{seed:05d}"
                    folder = root / domain / name
                    draw(folder / "image" / f"{stem}.jpg", seed, folder / "mask" / f"{stem}.png" if masked else None)
                    place = ON_THEIR_MACHINE.get(f"{domain}/{name}")
                    if place:
                        turns = [("human", "<image>\nWas this photo edited?"), ("gpt", SAID[masked])]
                        said = [{"from": speaker, "value": text} for speaker, text in turns]
                        elements.append({"id": len(elements), "image": f"{place}/{stem}.jpg", "conversations": said})
    (root / "MMTD_Set").mkdir(parents=True)
    (root / "MMTD_Set" / "MMTD-Set-34k.json").write_text(json.dumps(elements, indent=1))
    return root
