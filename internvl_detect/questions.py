"""The questions that the detector asks and is trained on: one wording for data, training and detection."""

WORD_TOKENS = 128  # most tokens of an answer in words, unless another number is asked for
IMAGE_QUESTION = (
    "Tell me if there are synthesis artifacts in the image or not. Must return with: 1)yes or no only. "
    "2)If yes, explain where the artifacts is with one sentence."
)
VIDEO_QUESTION = "Tell me if there are synthesis artifacts in the video or not. Must return with yes or no only"
EXPLAIN_QUESTION = (
    "Was this {medium} generated or edited? Begin with yes or no. Then describe what was changed and where, and name "
    "what gives it away: edges, light, shadows, perspective, texture, or things that cannot be so."
)
REGION_QUESTION = (
    "Which part was edited? Say where it lies and give its boxes as [[left, top, right, bottom]], "
    "in thousandths of the picture's width and height."
)
SEGMENT_QUESTION = "Mark what was edited."
SEG = "<SEG>"  # the answer to it: a token of its own where the model has one, whose hidden state prompts the mask
# In front of a question, as a domain tagger's first guess (FakeShield's manner). A guess may be wrong: see data.asking.
TAG_SENTENCES = {
    "authentic": "A first look found nothing unusual in this picture.",
    "ai_generated": "A first look suggests that a generator made the whole of this picture.",
    "aigc_editing": "A first look suggests that a generator repainted a part of this picture.",
    "deepfake": "A first look suggests that a face in this picture was swapped or altered.",
    "photoshop": "A first look suggests that this picture was edited by hand in a photo editor.",
}

EDITS = ("aigc_editing", "deepfake", "photoshop")  # tags of pictures that were edited in one place
METHOD_SENTENCES = {  # how the place was edited, as far as can be seen
    "splice": "It looks pasted in from another photograph.",
    "copy_move": "It looks copied from elsewhere in the picture.",
    "removal": "It looks painted over.",
    "poisson": "It looks blended in from another photograph.",
    "rebuild": "It looks rebuilt by a decoder.",
    "decoder_removal": "It looks erased and filled by a decoder.",
    "face_swap": "It looks like the face of another photograph.",
}


def tagged(tag: str, question: str, place: str = "", method: str = "") -> str:
    """``question`` with the sentence of a domain tag in front; as it is for a tag without one.

    ``place``: where an edit was seen ("upper left"), and ``method``: how it looks to have been made, one of
    ``METHOD_SENTENCES``, are said after the sentence of a tag of ``EDITS``.
    """
    sentence = TAG_SENTENCES.get(tag)
    if sentence and place and tag in EDITS:
        sentence += f" Look at the {place} part."
        sentence += f" {METHOD_SENTENCES[method]}" if method in METHOD_SENTENCES else ""
    return f"{sentence} {question}" if sentence else question


def explain_question(medium: str = "picture", language: str | None = None) -> str:
    """The question for reasons about a picture or a video, answered in ``language`` where one is named."""
    asked = EXPLAIN_QUESTION.format(medium=medium)
    return f"{asked} Answer in {language}." if language else asked
