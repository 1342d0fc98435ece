"""Words from one adapter and masks from another, on one base that is loaded once.

The second adapter's LoRA layers lie beside the first's, switched off; its ``<SEG>`` rows and head go on the model. What
it draws from must be read under it from the first token on, in its own tiling, for the cache of the words was made
under the other one. Not here: one adapter that does both (``adapter``), drawing (``masker``).

    loaded = load_base("InternVL2-8B", adapter="runs/words/adapter")
    add_mask_adapter(loaded, Path("runs/mflm/adapter"))
    with drawing(loaded):
        state = answerer.prefill([Request([*question_ids, *seg_turn(loaded, "Yes.")], tiles)])
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from internvl_detect.errors import AdapterError
from internvl_detect.model.adapter import put_adapter
from internvl_detect.model.mask_files import has_mask, load_mask

if TYPE_CHECKING:
    from internvl_detect.model.checkpoint import LoadedModel

NAME = "mask"


def add_mask_adapter(loaded: LoadedModel, folder: Path) -> None:
    """Let ``folder`` draw for a loaded model, in place; words, score and settings stay those of what is loaded.

    A mask that the loaded adapter has itself is replaced. Raises AdapterError where the folder draws no masks, was
    trained on another base, or where a second adapter draws already.
    """
    if loaded.mask_settings is not None:
        raise AdapterError(
            f"{loaded.name} has an adapter for masks already", expected="one", do="load the base again for another"
        )
    if not has_mask(folder):
        raise AdapterError(
            f"the adapter in {folder} draws no masks",
            expected="a folder with mask.safetensors, as training with mask.head writes it",
            do="check the path of the mask's adapter",
        )
    if loaded.settings.merged:
        raise AdapterError(
            f"{loaded.name} holds the adapter {loaded.settings.merged}, merged, and masks were not trained on that",
            expected="the base that the mask was trained on",
            do="give that base, and the words' adapter beside it",
        )
    alone = not hasattr(loaded.model, "peft_config")
    settings = put_adapter(loaded, folder, NAME)
    if alone:
        loaded.model.base_model.disable_adapter_layers()
    load_mask(loaded.model, folder)
    loaded.mask_settings = settings or loaded.settings


@contextmanager
def drawing(loaded: LoadedModel) -> Iterator[None]:
    """Inside, the model is the one that draws; nothing changes where no second adapter was added."""
    if loaded.mask_settings is None:
        yield
        return
    tuner = loaded.model.base_model
    words = [name for name in loaded.model.peft_config if name != NAME]
    tuner.enable_adapter_layers()
    tuner.set_adapter(NAME, inference_mode=True)
    try:
        yield
    finally:
        if words:
            tuner.set_adapter(words[0], inference_mode=True)
        else:
            tuner.disable_adapter_layers()
