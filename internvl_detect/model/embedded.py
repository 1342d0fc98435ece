"""Where the model that comes with the package lies: ``nano``, for trying things out."""

from __future__ import annotations

from pathlib import Path

from internvl_detect.errors import CheckpointError

NAME = "nano"
FOLDER = Path(__file__).resolve().parents[1] / "embedded"
ABOUT = "embedded nano model: for trying things out"


def resolve(path: str | Path, adapter: str | Path | None) -> tuple[Path, Path | None]:
    """The folder of a model, and of its adapter; ``"nano"`` stands for the embedded base with its own adapter.

    ``adapter`` "none" asks for the embedded base alone. Raises CheckpointError when the folder does not exist.
    """
    chosen = None if adapter in (None, "none") else Path(adapter)
    if str(path) == NAME and not Path(path).is_dir():
        own = FOLDER / "nano_lora"
        return FOLDER / "nano", chosen or (own if adapter != "none" and own.is_dir() else None)
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is no folder",
            expected="a model folder with config.json and *.safetensors",
            do=f"check the path, or use {NAME!r} for the embedded model",
        )
    return folder, chosen
