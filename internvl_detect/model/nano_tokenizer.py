"""Trains nano's own sentencepiece tokenizer, laid out as InternLM2's: same first and last pieces, no dummy prefix.

Small (about 2300 pieces) and with byte fallback, so any text can be written; what the program itself says and asks is
short in it. Needs the sentencepiece package, which only development installs. Reading it is ``model.tokenizer``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from internvl_detect.model.prompts import IMAGE_QUESTION, SYSTEM_MESSAGE, VIDEO_QUESTION

UNUSED = tuple(f"[UNUSED_TOKEN_{n}]" for n in range(141, 147))
PIECES = 2304
_PLACES = ("upper left", "upper", "upper right", "left", "middle", "right", "lower left", "lower", "lower right")
_OWN = (
    SYSTEM_MESSAGE,
    IMAGE_QUESTION,
    VIDEO_QUESTION,
    "system",
    "user",
    "assistant",
    *(["Yes", "yes", "YES", "No", "no", "NO", "Yes.", "No.", "Real", "Fake", "real", "fake"]),
    *(f"Frame{i}: " for i in range(1, 17)),
    *(f"Yes. The {place} part was edited (splice). It was changed by copy-move, inpainting." for place in _PLACES),
    "No. The picture looks like a photograph. Noise and fine detail are even. No traces of a generator or editing.",
    "Yes. The whole picture was generated, made by a decoder. It was pasted, copied, resampled, rebuilt there.",
)


def train_tokenizer(texts: Iterable[str], *, pieces: int = PIECES) -> bytes:
    """The content of a ``tokenizer.model`` with ``pieces`` pieces, learned from the texts and the program's own words.

    The last six pieces are the unused ones that the chat tokens take; the newline is a piece that nothing merges with.
    """
    import sentencepiece as spm
    from sentencepiece import sentencepiece_model_pb2 as proto

    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    lines += [text for text in _OWN for _ in range(200)]
    written = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type="bpe",
        vocab_size=pieces - len(UNUSED) - 1,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        max_sentencepiece_length=32,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    model = proto.ModelProto.FromString(written.getvalue())
    newline = model.pieces.add()
    newline.piece, newline.score, newline.type = "\n", -float(pieces), proto.ModelProto.SentencePiece.NORMAL
    for name in UNUSED:
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = name, 0.0, proto.ModelProto.SentencePiece.USER_DEFINED
    model.trainer_spec.vocab_size = len(model.pieces)
    for field in ("input", "model_prefix"):  # no path of the machine that trained it
        model.trainer_spec.ClearField(field)
    return model.SerializeToString()
