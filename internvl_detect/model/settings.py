"""How a model or adapter wants to be used: tiling, prompt, calibration. Stored beside the weights as ``ivdetect.json``.

An adapter trained on one tiling answers wrongly on another, so the settings travel with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_detect.errors import AdapterError, IvdetectError
from internvl_detect.media.tiles import TileSettings
from internvl_detect.model.calibration import Calibration
from internvl_detect.model.folder import read_json
from internvl_detect.model.fusion import Fusion
from internvl_detect.model.prompts import SYSTEM_MESSAGE

FILE = "ivdetect.json"
CLIP_SCORES = ("prompt", "frames")


def adapter_label(folder: Path) -> str:
    """What an adapter is called: its folder's name, or the run's where the folder is a run's ``adapter``."""
    return folder.name if folder.name != "adapter" else folder.resolve().parent.name


@dataclass(frozen=True)
class AdapterSettings:
    """What belongs to a base or an adapter besides weights.

    ``video_last_newline`` tells whether the last frame's tag is followed by a newline in the prompt; ``calibration`` is
    the dict of a Calibration or None; ``base_fingerprint`` names the base that an adapter was trained on; ``about`` is
    said wherever the model answers. ``clip_score`` "prompt" asks about all frames at once, as the original does;
    "frames" suits a model trained on pictures alone: frames are asked one by one and their scores aggregated.
    ``frame_tiles`` is the number of tiles of a frame that is asked alone. ``merged`` names an adapter that was merged
    into these weights. ``fusion`` is the dict of a Fusion with the domain tagger's evidence, or None.
    """

    tiles: TileSettings = field(default_factory=TileSettings)
    video_last_newline: bool = True
    system_message: str = SYSTEM_MESSAGE
    share_qkv_a: bool = True
    calibration: dict[str, Any] | None = None
    base_fingerprint: str | None = None
    base_name: str | None = None
    about: str | None = None
    clip_score: str = "prompt"
    frame_tiles: int = 1
    merged: str | None = None
    fusion: dict[str, Any] | None = None

    @classmethod
    def of_folder(cls, folder: Path, tile_px: int, raw: Mapping[str, Any]) -> AdapterSettings:
        """The settings stored with a base, or else those that its config ``raw`` states (12 tiles, thumbnail)."""
        if (folder / FILE).is_file():
            return cls.read(folder)
        tiles = TileSettings(
            tile_px=tile_px,
            min_tiles=int(raw.get("min_dynamic_patch") or 1),
            max_tiles=int(raw.get("max_dynamic_patch") or 12) if raw.get("dynamic_image_size", True) else 1,
            thumbnail=bool(raw.get("use_thumbnail", True)),
        )
        return cls(tiles=tiles)

    @classmethod
    def read(cls, folder: Path) -> AdapterSettings:
        """From ``ivdetect.json`` of a folder; raises AdapterError for unknown or wrongly typed entries."""
        content = read_json(folder / FILE)
        content.pop("format", None)
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(content) - known):
            raise AdapterError(
                f"{folder / FILE} has an entry {unknown[0]!r}",
                expected=f"only {', '.join(sorted(known))}",
                do="it may come from a newer version of this program: update it",
            )
        types = {
            "video_last_newline": bool,
            "share_qkv_a": bool,
            "system_message": str,
            "clip_score": str,
            "frame_tiles": int,
        } | dict.fromkeys(("about", "base_name", "base_fingerprint", "merged"), (str, type(None)))
        for key, kind in types.items():
            if key in content and not isinstance(content[key], kind):
                raise AdapterError(
                    f"{folder / FILE}: {key} is {content[key]!r}", expected=f"a {getattr(kind, '__name__', 'text')}"
                )
        if content.get("clip_score", "prompt") not in CLIP_SCORES:
            raise AdapterError(f"{folder / FILE}: clip_score is {content['clip_score']!r}", expected="prompt or frames")
        try:
            Calibration.from_dict(content.get("calibration"))
            Fusion.from_dict(content.get("fusion"))
            if "tiles" in content:
                content["tiles"] = TileSettings.from_dict(content["tiles"])
            return cls(**content)
        except (TypeError, ValueError, IvdetectError) as error:
            raise AdapterError(f"{folder / FILE}: {error}", expected="the settings of an adapter") from error

    def write(self, folder: Path) -> None:
        """Write ``ivdetect.json`` into a folder."""
        content = {"format": 1, **dataclasses.asdict(self), "tiles": self.tiles.to_dict()}
        (folder / FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
