"""Where the model and the domain tagger that come with the package lie: ``nano``, for trying things out."""

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


def resolve_tagger(given: str | Path | None, model: str | Path) -> Path | None:
    """The folder (of FakeShield's: the file) of the domain tagger that goes with ``model``; None for no tagger.

    ``given`` "auto" is the embedded one for the embedded model, where the package has it, and none for another model;
    None and "none" are no tagger, the rest is that of ``tagger_folder``.
    """
    if given in (None, "none"):
        return None
    if given == "auto":
        is_own = str(model) == NAME and not Path(model).is_dir()
        return FOLDER / "tagger" if is_own and (FOLDER / "tagger").is_dir() else None
    return tagger_folder(given)  # type: ignore[arg-type]


def tagger_folder(path: str | Path) -> Path:
    """The folder of a domain tagger; "nano" is the embedded one. Raises CheckpointError when there is none."""
    folder = FOLDER / "tagger" if str(path) == NAME and not Path(path).is_dir() else Path(path)
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist", expected="a domain tagger's folder, or FakeShield's DTG.pth")
    return folder
