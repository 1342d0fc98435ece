"""Makes folders that look like the datasets: tiny pictures under the names and in the folders that the sets use."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

README_TREE = {
    "photoshop/CASIAv2_Tp": ("Tp_D_CRN_M_N_pla00035_pla00033_10997.jpg", "Tp_S_NNN_S_N_ani00018_ani00018_00138.tif"),
    "photoshop/CASIAv2_Au": ("Au_pla_00035.jpg", "Au_nat_00001.jpg"),
    "photoshop/FR_Tp": ("1.jpg", "2.jpg"),
    "photoshop/FR_Au": ("3.jpg",),
    "photoshop/CASIAv1+_Tp": ("Sp_D_CND_A_pla0016_pla0196_0196.jpg",),
    "photoshop/CASIAv1+_Au": ("Au_pla_0016.jpg",),
    "photoshop/IMD2020_Tp": ("c8tf5mq_0.png", "c8tf5mq_1.png"),
    "photoshop/IMD2020_Au": ("1a1ogs_orig.jpg",),
    "photoshop/Columbia": ("canong3_canonxt_sub_01.tif",),
    "photoshop/coverage": ("1t.tif", "2t.tif"),
    "photoshop/NIST16": ("NC2016_1504.jpg",),
    "photoshop/DSO": ("splicing-01.png", "splicing-02.png"),
    "photoshop/Korus": ("DPP0012.TIF",),
    "deepfake/FaceAPP_Train": ("00012.png",),
    "deepfake/FaceAPP_Val": ("00013.png",),
    "deepfake/FFHQ_Train": ("00000.png", "00001.png"),
    "deepfake/FFHQ_Val": ("00002.png",),
    "aigc/SD_inpaint_Train": ("000000000009.jpg",),
    "aigc/SD_inpaint_Val": ("000000000025.jpg",),
    "aigc/COCO2017_Train": ("000000000030.jpg",),
    "aigc/COCO2017_Val": ("000000000034.jpg",),
}
_WITHOUT_MASKS = ("_Au", "FFHQ_Train", "FFHQ_Val", "COCO2017_Train", "COCO2017_Val")
MASK_NAMES = {
    "CASIAv2_Tp": "{}_gt.png",
    "CASIAv1+_Tp": "{}_gt.png",
    "IMD2020_Tp": "{}_mask.png",
    "Columbia": "{}_edgemask.jpg",
    "Korus": "{}.PNG",
}


@cache
def picture(suffix: str) -> bytes:
    """A whole 4 by 4 picture in the format of a suffix; for other suffixes some bytes."""
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".bmp": "BMP", ".webp": "WEBP"}
    if suffix.lower() not in kind:
        return b"not a picture"
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (90, 120, 60)).save(out, kind[suffix.lower()])
    return out.getvalue()


def fill(root: Path, paths: Iterable[str]) -> Path:
    """Writes a tiny file at every path, and gives ``root``."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(os.path.splitext(path)[1]))
    return root


def readme_tree(root: Path) -> Path:
    """The whole tree of FakeShield's README, with the naming habit of each set."""
    paths = []
    for folder, names in README_TREE.items():
        part = folder.rpartition("/")[2]
        for name in names:
            paths.append(f"{folder}/image/{name}")
            stem = os.path.splitext(name)[0]
            mask = f"{stem[:-1]}forged.tif" if part == "coverage" else MASK_NAMES.get(part, "{}.png").format(stem)
            if not part.endswith(_WITHOUT_MASKS):
                paths.append(f"{folder}/mask/{mask}")
    fill(root, [*paths, "MMTD_Set/MMTD-Set-34k.json"])
    (root / "MMTD_Set" / "MMTD-Set-34k.json").write_text("[]")
    return root
