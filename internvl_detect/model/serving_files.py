"""What a native folder needs beside weights and tokenizer to be served by vLLM, LMDeploy or SGLang.

Their loaders build transformers' ``InternVLProcessor`` from the folder, which asks the tokenizer by name for the tokens
around a picture, and they render chats by its template: here the original's prompt (``prompts``), a newline after each
picture. Not here: the servers themselves (docs/scale.md).
"""

from __future__ import annotations

import json
from pathlib import Path

# A video token must be one token, though no video is ever sent: clips go as frames.
NAMED_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<|plugin|>",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'text' %}{{ p.text }}{% else %}{{ '<IMG_CONTEXT>\\n' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_serving_files(folder: Path, tokens_per_tile: int) -> None:
    """Add them to a native folder that has a tokenizer; ``tokens_per_tile`` is 256 at 448 px."""
    config = folder / "tokenizer_config.json"
    said = json.loads(config.read_text("utf-8"))
    said |= {"extra_special_tokens": NAMED_TOKENS, "processor_class": "InternVLProcessor"}
    config.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", "utf-8")
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": tokens_per_tile}
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n", "utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
