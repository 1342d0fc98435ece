"""The InternLM2 tokenizer as a fast tokenizer, built from ``tokenizer.model`` without remote code.

The sentencepiece file is read as data (a few protobuf fields); its BPE pieces become merges for the ``tokenizers``
library. Six unused pieces carry the chat tokens, nine more tokens follow the last piece. Text of users is encoded by
``encode_text``, which never forms a special token. Not here: the prompt around the text (``prompts``).
"""

from __future__ import annotations

import json
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from internvl_detect.errors import CheckpointError

CHAT_TOKENS = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")
MEDIA_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
_CHAT_PIECES = tuple(f"[UNUSED_TOKEN_{n}]" for n in range(141, 147))
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_MAX_FILE_BYTES = 64 * 2**20

_plain: weakref.WeakKeyDictionary[PreTrainedTokenizerFast, Tokenizer] = weakref.WeakKeyDictionary()


def build_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder, or of a ``tokenizer.model`` file itself.

    A folder may hold ``tokenizer.json`` (read as it is), ``tokenizer.model`` (InternLM2, Llama) or ``vocab.json`` with
    ``merges.txt`` (Qwen2). Raises CheckpointError when there is none, or when the file is not what its name says.
    """
    path = Path(path)
    if path.is_file():
        return _from_sentencepiece(path) if path.suffix != ".json" else _from_json(path)
    if (path / "tokenizer.json").is_file():
        return _from_json(path / "tokenizer.json")
    if (path / "tokenizer.model").is_file():
        return _from_sentencepiece(path / "tokenizer.model")
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _from_qwen(path)
    raise CheckpointError(
        f"no tokenizer in {path}",
        expected="tokenizer.model, tokenizer.json, or vocab.json with merges.txt",
        do="copy the tokenizer files of the model into that folder",
    )


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of text that may come from a stranger: no special token is formed, none is added.

    ``<|im_end|>`` or ``<IMG_CONTEXT>`` written inside the text become the ordinary pieces of those characters.
    """
    plain = _plain.get(tokenizer)
    if plain is None:
        plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        plain.encode_special_tokens = True
        plain.no_truncation()
        plain.no_padding()
        _plain[tokenizer] = plain
    # A lone surrogate cannot be written in UTF-8; it becomes the replacement character.
    clean = text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
    return plain.encode(clean, add_special_tokens=False).ids


def special_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a special token. Raises CheckpointError when this tokenizer does not have it."""
    found = tokenizer.get_added_vocab().get(token)
    if found is None:
        raise CheckpointError(
            f"the tokenizer has no token {token}",
            expected="the tokenizer of an InternVL2 model",
            do="use the tokenizer files that came with the model",
        )
    return found


def _from_sentencepiece(path: Path) -> PreTrainedTokenizerFast:
    pieces = _read_pieces(path)
    names = [piece for piece, _, _ in pieces]
    kinds = [kind for _, _, kind in pieces]
    for old, new in zip(_CHAT_PIECES, CHAT_TOKENS, strict=True):
        if names.count(old) != 1:
            raise CheckpointError(
                f"{path} has no piece {old}",
                expected="the tokenizer.model of InternLM2, whose unused pieces 141 to 146 carry the chat tokens",
                do="use the tokenizer.model that came with the model",
            )
        names[names.index(old)] = new
    vocab = {name: i for i, name in enumerate(names)}
    if len(vocab) != len(names):
        raise CheckpointError(f"{path} lists a piece twice", expected="each piece once", do="fetch the file again")
    model = models.BPE(
        vocab=vocab,
        merges=_merges(pieces),
        unk_token=_name_of(names, kinds, _UNKNOWN),
        fuse_unk=True,
        byte_fallback=_BYTE in kinds,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    control = [name for name, kind in zip(names, kinds, strict=True) if kind in (_UNKNOWN, _CONTROL)]
    special = [*control, *CHAT_TOKENS, *MEDIA_TOKENS]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    bos = vocab.get("<s>")
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
        )
    return _wrap(tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"})


def _from_json(path: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = Tokenizer.from_file(str(path))
        side = path.with_name("tokenizer_config.json")
        said = json.loads(side.read_text("utf-8")) if side.is_file() else {}
    except Exception as error:  # tokenizers raises bare Exception for a malformed file
        raise CheckpointError(
            f"{path} cannot be read ({error})", expected="a tokenizers JSON file", do="fetch the file again"
        ) from error
    named = {}
    for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = said.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and tokenizer.token_to_id(token) is not None:
            named[role] = token
    return _wrap(tokenizer, named)


def _from_qwen(folder: Path) -> PreTrainedTokenizerFast:
    from transformers import Qwen2Tokenizer

    try:
        return Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"the tokenizer files in {folder} cannot be read ({error})",
            expected="vocab.json and merges.txt of Qwen2",
            do="fetch the files again",
        ) from error


def _wrap(tokenizer: Tokenizer, named: dict[str, str]) -> PreTrainedTokenizerFast:
    present = [t for t in (*CHAT_TOKENS, *MEDIA_TOKENS) if tokenizer.token_to_id(t) is not None]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=present,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=32768,
        **named,
    )


def _name_of(names: list[str], kinds: list[int], kind: int) -> str | None:
    return names[kinds.index(kind)] if kind in kinds else None


def _merges(pieces: list[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Merges in the order sentencepiece prefers them: by the score of the merged piece, then by its parts' ids.

    Only normal pieces take part, so that neither a control piece nor a user-defined one is ever merged into being.
    """
    ids = {piece: i for i, (piece, _, kind) in enumerate(pieces) if kind == _NORMAL}
    order = sorted(ids, key=lambda piece: (-pieces[ids[piece]][1], ids[piece]))
    merges: list[tuple[str, str]] = []
    for piece in order:
        parts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        parts = [(left, right) for left, right in parts if left in ids and right in ids]
        merges.extend(sorted(parts, key=lambda pair: (ids[pair[0]], ids[pair[1]])))
    return merges


def _read_pieces(path: Path) -> list[tuple[str, float, int]]:
    """(piece, score, type) of every piece of a sentencepiece model file; see sentencepiece_model.proto."""
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise CheckpointError(f"{path} is larger than {_MAX_FILE_BYTES} bytes", expected="a tokenizer.model file")
    try:
        pieces = []
        for number, value in _fields(path.read_bytes()):
            if number != 1 or not isinstance(value, bytes):
                continue
            piece, score, kind = "", 0.0, _NORMAL
            for inner, content in _fields(value):
                if inner == 1 and isinstance(content, bytes):
                    piece = content.decode("utf-8")
                elif inner == 2 and isinstance(content, bytes):
                    score = struct.unpack("<f", content)[0]
                elif inner == 3 and isinstance(content, int):
                    kind = content
            pieces.append((piece, score, kind))
    except (ValueError, IndexError, struct.error) as error:
        raise CheckpointError(
            f"{path} is not a sentencepiece model ({error})", expected="tokenizer.model", do="fetch the file again"
        ) from error
    if not pieces:
        raise CheckpointError(f"{path} holds no pieces", expected="a sentencepiece model", do="fetch the file again")
    return pieces


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protobuf message: varints as int, everything else as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at + size > len(data):
            raise ValueError("the file ends in the middle of a field")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")
