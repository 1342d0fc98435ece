"""Write models so that a folder is there whole or not at all, whatever ends the program."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from internvl_detect.errors import ConfigError, OutputError
from internvl_detect.model.folder import no_bars
from internvl_detect.model.serving_files import write_serving_files

if TYPE_CHECKING:
    from internvl_detect.model.checkpoint import LoadedModel


@contextmanager
def whole_folder(destination: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``destination`` that takes its name when the block ends without an error.

    Raises ConfigError when ``destination`` exists and is not empty (unless ``replace``), OutputError when it cannot be
    written.
    """
    if not replace and destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists and is not empty", expected="a new folder", do="choose another name")
    temporary: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        old = destination.with_name(f".{destination.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if destination.exists():
            os.replace(destination, old)
        os.replace(temporary, destination)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) or "No space left" in str(error):
            raise OutputError(
                f"{destination} could not be written ({error})", do="free disk space or choose another folder"
            ) from error
        raise


def save_native(loaded: LoadedModel, destination: Path) -> Path:
    """Write a loaded model (without a PEFT wrapper) as a folder of transformers' own format, with its settings."""
    with whole_folder(destination) as temporary, no_bars():
        loaded.model.save_pretrained(str(temporary), max_shard_size="5GB")
        loaded.image_processor.save_pretrained(str(temporary))
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(str(temporary))
            write_serving_files(temporary, loaded.tokens_per_tile)
        loaded.settings.write(temporary)
        config = temporary / "config.json"
        said = json.loads(config.read_text("utf-8"))
        said.pop("_name_or_path", None)
        config.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", "utf-8")
    return destination
