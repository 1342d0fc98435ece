"""The chat prompt of InternVL2 as token ids, and the questions the detector asks.

Exact to the original (templates ``internlm2-chat`` and ``Hermes-2``): no newline between turns, ``<s>`` once, the
picture's tokens before the question. Markers are placed by structure: text of a user is encoded as text only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from internvl_detect.errors import DataError
from internvl_detect.model.tokenizer import encode_text, special_id
from internvl_detect.questions import IMAGE_QUESTION, SEG, VIDEO_QUESTION

SYSTEM_MESSAGE = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
__all__ = ["IMAGE_QUESTION", "SYSTEM_MESSAGE", "VIDEO_QUESTION", "Encoded", "encode_conversation", "encode_question"]
IMAGE_MARKER = "<image>"
IGNORE = -100


@dataclass(frozen=True)
class Encoded:
    """A conversation as ids; ``labels`` repeats the ids of answers (with their ``<|im_end|>``), -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast,
    turns: Sequence[tuple[str, str]],
    *,
    tiles_per_image: Sequence[int],
    tokens_per_tile: int,
    system: str = SYSTEM_MESSAGE,
    video: bool = False,
    video_last_newline: bool = True,
    seg_id: int | None = None,
) -> Encoded:
    """Encode turns of ("user" | "assistant", text), in which ``<image>`` marks where each picture stands.

    One marker a picture, in order; a single picture without any marker stands before the first question. For a clip
    (``video``) each entry of ``tiles_per_image`` is a frame and ``<video>`` (or nothing) marks the place;
    ``video_last_newline`` says whether the last frame is followed by a newline (the original's inference does so, its
    training code does not). With ``seg_id`` an answer that is ``<SEG>`` and nothing else becomes that token;
    a user's never does. When the last turn is the user's, the prompt for the answer is appended.
    Raises DataError when markers and pictures do not match or turns do not alternate.
    """
    ids: list[int] = []
    labels: list[int] = []
    start, end = special_id(tokenizer, "<|im_start|>"), special_id(tokenizer, "<|im_end|>")

    def put(tokens: Sequence[int], learn: bool = False) -> None:
        ids.extend(tokens)
        labels.extend(tokens if learn else [IGNORE] * len(tokens))

    if tokenizer.bos_token_id is not None:
        put([tokenizer.bos_token_id])
    if system:
        put([start, *encode_text(tokenizer, f"system\n{system}"), end])
    texts = _placed(turns, len(tiles_per_image), video, video_last_newline)
    left = list(tiles_per_image)
    header = encode_text(tokenizer, "assistant\n")
    for role, text in texts:
        put([start])
        if role == "assistant":
            # Encoded in one piece with its header, as the original does, then split where the header ends.
            whole = encode_text(tokenizer, f"assistant\n{text}")
            cut = len(header) if whole[: len(header)] == header else _common(whole, header)
            if seg_id is not None and text.strip() == SEG:
                put(header)
                put([seg_id, end], learn=True)
                continue
            put(whole[:cut])
            put([*whole[cut:], end], learn=True)
            continue
        put(_with_pictures(tokenizer, f"user\n{text}", left, tokens_per_tile))
        put([end])
    if texts and texts[-1][0] == "user":
        put([start, *header])
    return Encoded(ids, labels)


def encode_question(
    tokenizer: PreTrainedTokenizerFast,
    question: str,
    *,
    tiles_per_image: Sequence[int],
    tokens_per_tile: int,
    kind: str = "image",
    system: str = SYSTEM_MESSAGE,
    video_last_newline: bool = True,
) -> list[int]:
    """Token ids of one question about a picture (``kind`` "image") or about the frames of a clip ("video").

    The question is a stranger's text: any ``<image>`` or ``<video>`` in it is read as text. Raises DataError for an
    empty question.
    """
    if not question.strip():
        raise DataError("the question is empty", expected="a sentence", do="leave it out to ask the standard question")
    plain = question.replace(IMAGE_MARKER, _ESCAPED_IMAGE).replace("<video>", _ESCAPED_VIDEO)
    marker = "<video>\n" if kind == "video" else "".join("<image>\n" for _ in tiles_per_image)
    return encode_conversation(
        tokenizer,
        [("user", marker + plain)],
        tiles_per_image=tiles_per_image,
        tokens_per_tile=tokens_per_tile,
        system=system,
        video=kind == "video",
        video_last_newline=video_last_newline,
    ).input_ids


def encode_turns(tokenizer: PreTrainedTokenizerFast, answer: str | Sequence[int], question: str) -> list[int]:
    """Ids that go on from a prompt that asks for an answer: the answer, its end, the next question, its prompt.

    ``answer`` is text, or the ids that a model said. With it the whole is what ``encode_conversation`` gives for all
    turns at once. The question is text only: no marker in it becomes a picture's token.
    """
    start, end = special_id(tokenizer, "<|im_start|>"), special_id(tokenizer, "<|im_end|>")
    header = encode_text(tokenizer, "assistant\n")
    said = (
        list(answer) if not isinstance(answer, str) else encode_text(tokenizer, f"assistant\n{answer}")[len(header) :]
    )
    return [*said, end, start, *encode_text(tokenizer, f"user\n{question}"), end, start, *header]


# Unassigned by Unicode (noncharacters), so no text that is worth keeping holds them.
_ESCAPED_IMAGE = "\ufdd0"
_ESCAPED_VIDEO = "\ufdd1"


def _restore(text: str) -> str:
    return text.replace(_ESCAPED_IMAGE, IMAGE_MARKER).replace(_ESCAPED_VIDEO, "<video>")


def _placed(
    turns: Sequence[tuple[str, str]], n_pictures: int, video: bool, last_newline: bool
) -> list[tuple[str, str]]:
    """Turns with one ``<image>`` a picture or frame, checked against the number of pictures."""
    texts = [(role, text) for role, text in turns]
    for at, (role, _) in enumerate(texts):
        if role != ("user", "assistant")[at % 2]:
            raise DataError(
                f"turn {at + 1} of the conversation is by {role!r}", expected="user and assistant in turn, user first"
            )
    if not texts:
        raise DataError("the conversation has no turns", expected="a question, usually with an answer")
    if n_pictures and video:
        frames = "\n".join(f"Frame{i + 1}: {IMAGE_MARKER}" for i in range(n_pictures))
        role, first = texts[0]
        for marker in ("<video>\n", "<video>"):
            if first.startswith(marker):
                first = first[len(marker) :]
                break
        texts[0] = (role, frames + ("\n" if last_newline else "") + first)
    elif n_pictures == 1 and not any(IMAGE_MARKER in text for role, text in texts if role == "user"):
        texts[0] = (texts[0][0], f"{IMAGE_MARKER}\n{texts[0][1]}")
    marked = sum(text.count(IMAGE_MARKER) for role, text in texts if role == "user")
    if marked != n_pictures:
        raise DataError(
            f"the conversation marks {marked} pictures with <image> and comes with {n_pictures}",
            expected="one <image> a picture",
            do="correct the conversation or its list of pictures",
        )
    return texts


def _with_pictures(tokenizer: PreTrainedTokenizerFast, text: str, left: list[int], tokens_per_tile: int) -> list[int]:
    ids: list[int] = []
    first, *rest = text.split(IMAGE_MARKER)
    ids.extend(encode_text(tokenizer, _restore(first)) if first else [])
    for part in rest:
        context = [special_id(tokenizer, "<IMG_CONTEXT>")] * (tokens_per_tile * left.pop(0))
        ids.extend([special_id(tokenizer, "<img>"), *context, special_id(tokenizer, "</img>")])
        if part:
            ids.extend(encode_text(tokenizer, _restore(part)))
    return ids


def _common(left: list[int], right: list[int]) -> int:
    n = 0
    while n < min(len(left), len(right)) and left[n] == right[n]:
        n += 1
    return n
