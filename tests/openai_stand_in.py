"""A stand-in for vLLM and its like: the chat completions protocol, answered by a real model of this package.

It does what those servers do: decodes data URIs, cuts each picture by the model's own dynamic tiling, puts a newline
after it, and names the likeliest first tokens. ``style`` "lmdeploy" leaves the drawn token out of its list, names
tokens as the vocabulary does, and at temperature 0 lists that token alone, as LMDeploy does.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import threading
from typing import Any

import numpy as np
import torch
from PIL import Image
from stand_in import Reply, Request, reply

from internvl_detect.media.tiles import TileSettings, cut_tiles
from internvl_detect.model.answer import Answerer
from internvl_detect.model.answer import Request as Prompt
from internvl_detect.model.checkpoint import LoadedModel
from internvl_detect.model.prompts import encode_conversation


class OpenAIStandIn:
    """A route for ``stand_in.serving``."""

    def __init__(self, loaded: LoadedModel, *, tiles: TileSettings | None = None, style: str = "vllm") -> None:
        self.answerer = Answerer(loaded)
        made = tiles or loaded.settings.tiles
        self.tiles = dataclasses.replace(made, mode="dynamic")
        self.style = style
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        if request.path == "/v1/models":
            return reply({"object": "list", "data": [{"id": "the-model", "object": "model"}]})
        if (request.method, request.path) != ("POST", "/v1/chat/completions"):
            return reply({"error": {"message": "not found"}}, 404)
        body = request.json()
        if body["model"] != "the-model":
            return reply({"object": "error", "message": f"The model {body['model']} does not exist."}, 404)
        with self.lock:
            return reply(self.complete(body))

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        system, user = body["messages"]
        assert (system["role"], user["role"]) == ("system", "user")
        text, pictures = "", []
        for part in user["content"]:
            if part["type"] == "text":
                text += part["text"]
            else:
                data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
                pictures.append(cut_tiles(Image.open(io.BytesIO(base64.b64decode(data))), self.tiles).pixels)
                text += "<image>\n"
        encoded = encode_conversation(
            self.answerer.tokenizer,
            [("user", text)],
            tiles_per_image=[len(p) for p in pictures],
            tokens_per_tile=self.answerer.loaded.tokens_per_tile,
            system=system["content"],
        )
        ids = encoded.input_ids
        state = self.answerer.prefill([Prompt(ids, np.concatenate(pictures))])
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [self.first(state.first_logits[0], body)]}
        words = self.answerer.words(state, body["max_tokens"])[0]
        choice["message"] = {"role": "assistant", "content": words}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        return {"object": "chat.completion", "choices": [choice], "usage": usage}

    def first(self, logits: torch.Tensor, body: dict[str, Any]) -> dict[str, Any]:
        logs, ids = logits.float().log_softmax(-1).topk(body["top_logprobs"])
        tokenizer, theirs = self.answerer.tokenizer, self.style == "lmdeploy"
        listed = [
            {
                "token": tokenizer.convert_ids_to_tokens(i) if theirs else tokenizer.decode([i]),
                "logprob": log,
                "bytes": [],
            }
            for i, log in zip(ids.tolist(), logs.tolist(), strict=True)
        ]
        if theirs and body["temperature"] == 0:
            return {**listed[0], "logprob": 0.0, "top_logprobs": []}
        return {**listed[0], "top_logprobs": listed[1:] if theirs else listed}
