"""A small training and test set from the photographs in the package: for the demo and for trying the trainer.

Each cut of a photograph stands beside a forged twin (``forge``), finished alike. Photographs of the test part are never
in the training part. Far too small to teach a model anything general.

    ivdetect data samples runs/samples
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl_detect.data.conversations.meta import make_row, write_jsonl, write_meta
from internvl_detect.data.forge.finish import Finish
from internvl_detect.data.forge.plain import describe, make_edited, resample
from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.media.image import open_image
from internvl_detect.questions import IMAGE_QUESTION

SAMPLES = Path(__file__).resolve().parents[2] / "embedded" / "samples"
TRAIN = ("astronaut.jpg", "camera.jpg", "chelsea.jpg")
TEST = ("coffee.jpg", "rocket.jpg")
METHODS = ("whole", "splice", "copy_move", "rebuild")
CUT_PX = 296
SIZE = (224, 224)


def make_sample_set(folder: str | Path, *, pairs: int = 64, test_pairs: int = 32, seed: int = 0) -> Path:
    """Write train and test pictures with their meta.json, and the files to detect: real, edited,
    rebuilt (made small and large again) and clip.

    The same ``seed`` gives the same bytes. Gives the path of meta.json, whose datasets are ``samples_train`` and
    ``samples_test``. Raises ConfigError when the folder is not empty, OutputError when it cannot be written.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", expected="a new folder", do="choose another name")
    try:
        photographs = {name: np.asarray(open_image(SAMPLES / name).rgb) for name in TRAIN + TEST}
        rng = np.random.default_rng(seed)
        datasets: dict[str, dict[str, Any]] = {}
        for split, names, count in (("train", TRAIN, pairs), ("test", TEST, test_pairs)):
            rows = [row for i in range(count) for row in _pair(folder, split, i, names, photographs, rng)]
            write_jsonl(folder / f"{split}.jsonl", rows)
            datasets[f"samples_{split}"] = {
                "root": ".",
                "annotation": f"{split}.jsonl",
                "data_augment": False,
                "repeat_time": 1,
                "length": len(rows),
            }
        write_meta(folder / "meta.json", datasets)
        _files_to_detect(folder, photographs, rng)
    except OSError as error:
        raise OutputError(f"{folder} could not be written ({error})", do="free disk space or choose another") from error
    return folder / "meta.json"


def _pair(
    folder: Path,
    split: str,
    number: int,
    names: tuple[str, ...],
    photographs: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """One cut of a photograph and its forged twin, both through one draw of post-processing."""
    name = names[number % len(names)]
    real = _cut(photographs[name], rng)
    method = METHODS[number // len(names) % len(METHODS)]
    fake, record = _forged(real, method, _cut(photographs[names[(number + 1) % len(names)]], rng), rng)
    drawn = Finish.draw(rng)
    finish = replace(drawn, scale=max(drawn.scale, 0.8))  # or the cut would not fill a tile
    rows = []
    for label, pixels, done in (("real", real, {"method": "none"}), ("fake", fake, record)):
        path = folder / split / f"{number:03d}_{label}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(finish.apply(pixels, size=SIZE))
        kind = "real" if label == "real" else "ai_generated" if method == "whole" else "tampered"
        turns = (f"<image>\n{IMAGE_QUESTION}", describe(done, rng))
        rows.append(make_row(*turns, image=f"{split}/{path.name}", id=path.stem, label=kind, group_id=name))
    return rows


def _forged(
    real: np.ndarray, method: str, donor: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, Any]]:
    if method == "whole":
        return resample(real, rng), {"method": "whole"}
    edited, _, record = make_edited(real, rng, method, donor=donor)
    return edited, record


def _cut(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of the photograph, on its JPEG grid."""
    height, width = picture.shape[:2]
    y, x = (8 * int(rng.integers((n - CUT_PX) // 8 + 1)) for n in (height, width))
    return picture[y : y + CUT_PX, x : x + CUT_PX]


def _files_to_detect(folder: Path, photographs: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    real = photographs["coffee.jpg"]
    donor = photographs["rocket.jpg"][: real.shape[0], : real.shape[1]]
    edited, mask, _ = make_edited(real, rng, "splice", donor=donor)
    finish = Finish(quality=92)
    (folder / "real.jpg").write_bytes(finish.apply(real))
    (folder / "edited.jpg").write_bytes(finish.apply(edited))
    (folder / "rebuilt.jpg").write_bytes(finish.apply(resample(real, np.random.default_rng(0))))
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "edited_mask.png")
    shutil.copyfile(SAMPLES / "clip.mp4", folder / "clip.mp4")
