"""A model folder as found on disk: which form it has, its tensors shard by shard, its small JSON files.

Reads safetensors only; pickles are refused by name. Not here: what the tensors mean (``convert``) or the model
(``checkpoint``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from internvl_detect.errors import CheckpointError

Form = Literal["original", "native", "lora_full"]
FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # as safetensors and as torch call them
_MAX_JSON_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Shards:
    """The safetensors files of a folder and which tensor lies in which; ``shapes`` and ``dtypes`` by tensor name."""

    files: tuple[Path, ...]
    home: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """(name, tensor on the CPU), one file open at a time."""
        for file in self.files:
            with _opened(file) as handle:
                for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
                    yield name, handle.get_tensor(name)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises CheckpointError when it is missing, too large or no object."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", expected="a model folder", do="check the path of the model")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is larger than {_MAX_JSON_BYTES} bytes", expected="a small JSON file")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error})", expected="a JSON object", do="fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}", expected="a JSON object")
    return content


def open_shards(folder: Path) -> Shards:
    """Find the safetensors files of a folder, with or without an index, and read their headers.

    Raises CheckpointError for no weights, for pickled ones, for a shard that the index names and the folder lacks, for
    a tensor found twice, and for one that the index promises and no shard holds.
    """
    index = folder / "model.safetensors.index.json"
    promised: dict[str, str] = {}
    if index.is_file():
        promised = read_json(index).get("weight_map") or {}
        if not isinstance(promised, dict) or not all(isinstance(v, str) for v in promised.values()):
            raise CheckpointError(f"{index} has no usable weight_map", expected="tensor names with their files")
        names = sorted(set(promised.values()))
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index} names files outside its folder", expected="plain file names")
    else:
        names = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_"))
    if not names:
        pickled = [p.name for p in folder.glob("*.bin")] + [p.name for p in folder.glob("*.pt*")]
        raise CheckpointError(
            f"{folder} has " + (f"pickled weights ({pickled[0]})" if pickled else "no weights"),
            expected="*.safetensors",
            do="download the safetensors version of the model; pickles are not read because they can run code",
        )
    home: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for name in names:
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing", expected=f"all {len(names)} shards", do="download it again")
        with _opened(file) as handle:
            for tensor in handle.keys():  # noqa: SIM118
                if tensor in home:
                    raise CheckpointError(f"tensor {tensor} is in both {home[tensor].name} and {name}")
                piece = handle.get_slice(tensor)
                home[tensor], shapes[tensor] = file, tuple(piece.get_shape())
                dtypes[tensor] = str(piece.get_dtype())
                if dtypes[tensor] not in FLOATS:
                    raise CheckpointError(
                        f"tensor {tensor} in {name} is of type {dtypes[tensor]}",
                        expected="F32, BF16 or F16",
                        do="use unquantized weights; --quantize quantizes while loading",
                    )
    absent = sorted(set(promised) - set(home))
    if absent:
        raise CheckpointError(
            f"{len(absent)} tensors of the index are in no shard, first {absent[0]}", do="download the model again"
        )
    return Shards(tuple(folder / name for name in names), home, shapes, dtypes)


def form_of(folder: Path, config: dict[str, Any], shards: Shards) -> Form:
    """Tell the three forms apart by the files: native, original, or original with LoRA layers inside."""
    kind = config.get("model_type")
    if kind == "internvl":
        return "native"
    if kind != "internvl_chat":
        raise CheckpointError(
            f"{folder}/config.json is of a {kind!r} model",
            expected="internvl_chat (InternVL2 as downloaded) or internvl (transformers)",
            do="give the folder of an InternVL2 model",
        )
    return "lora_full" if any(".lora_A." in name for name in shards.home) else "original"


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(str(file), framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error})", expected="a whole safetensors file", do="download it again"
        ) from error


@contextmanager
def no_bars() -> Iterator[None]:
    """Without transformers' own progress bars, which would mix with this program's."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
