"""A Detector whose model is on somebody else's server: settings and calibration from folders here, answers from there.

    detector = open_served("http://gpu:8000/v1", adapter="runs/mine/adapter")
    for row in detector.detect_many(paths, batch_size=32): ...

Needs neither weights nor torch. Not here: how the server is asked (``openai_asker``).
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from internvl_detect.detect.detector import Detector, load_tagger
from internvl_detect.detect.openai_asker import OpenAIAsker, Served, models
from internvl_detect.errors import ConfigError
from internvl_detect.http_calls import Caller
from internvl_detect.model.embedded import resolve_tagger
from internvl_detect.model.folder import read_json
from internvl_detect.model.settings import AdapterSettings
from internvl_detect.model.tokenizer import build_tokenizer
from internvl_detect.model.yes_no import NO, YES, texts, yes_no_sets

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def open_served(
    url: str,
    *,
    served_model: str | None = None,
    model: str | Path | None = None,
    adapter: str | Path | None = None,
    token: str | None = None,
    timeout: float = 120.0,
    max_tiles: int | None = None,
    tagger: str | Path | None = None,
    **options: Any,
) -> Detector:
    """Ask the server at ``url`` (it ends in /v1); ``served_model`` is its name there, the first one by default.

    ``model`` is the folder of the served checkpoint, as ``merge`` or ``convert`` wrote it: its settings, its
    calibration, and its tokenizer, with which the server's prompts are checked; weights are not read. ``adapter``
    gives settings and calibration instead. ``tagger``, a domain tagger's folder, looks at the pictures here (with
    torch). With neither, InternVL2's own settings hold: 12 tiles and a thumbnail.
    Raises ServerError when the server cannot be asked, ConfigError for settings that no server can follow.
    """
    folder = Path(model) if model is not None else None
    settings = _settings(folder, Path(adapter) if adapter is not None else None)
    if max_tiles is not None:
        settings = dataclasses.replace(settings, tiles=dataclasses.replace(settings.tiles, max_tiles=max_tiles))
    tokenizer = None
    if folder is not None and any((folder / name).is_file() for name in TOKENIZERS):
        tokenizer = build_tokenizer(folder)
        sets = yes_no_sets(tokenizer)
        yes, no = texts(tokenizer, sets.yes), texts(tokenizer, sets.no)
    else:
        yes, no = frozenset(YES), frozenset(NO)
    caller = Caller(url, token=token, timeout=timeout)
    there = models(caller)
    if served_model is not None and served_model not in there:
        raise ConfigError(f"{caller.name} serves {', '.join(there)[:200]}", expected=served_model, do="--served-model")
    name = served_model or there[0]
    served = Served(caller, name, settings, yes, no, tokenizer, settings.base_fingerprint or "")
    if tokenizer is None:
        served.notes.append("without the folder of the checkpoint (--model) the server's prompts are not checked")
    if settings.clip_score == "prompt" and not settings.video_last_newline:
        served.notes.append("clips: servers put a newline after the last frame, and this adapter was trained without")
    folder = resolve_tagger(tagger, model or url)
    return Detector(served, asker=OpenAIAsker, tagger=load_tagger(folder) if folder else None, **options)


def token_of(variable: str | None) -> str | None:
    """The token in an environment variable; raises ConfigError when that is not set."""
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise ConfigError(f"the environment variable {variable!r:.80} is not set", expected="a token in it")
    return token


def _settings(model: Path | None, adapter: Path | None) -> AdapterSettings:
    """Those of the adapter, else of the checkpoint's folder, else InternVL2's."""
    if adapter is not None:
        return AdapterSettings.read(adapter)
    if model is None:
        return AdapterSettings.of_folder(Path(os.devnull), 448, {})
    raw = read_json(model / "config.json")
    pixels = raw.get("force_image_size") or (raw.get("vision_config") or {}).get("image_size") or 448
    side = pixels[0] if isinstance(pixels, list) and pixels else pixels
    if not isinstance(side, int):
        raise ConfigError(f"{model}/config.json has the image_size {side!r:.40}", expected="a number of pixels")
    return AdapterSettings.of_folder(model, side, raw)
