"""The answers' shapes, for the OpenAPI page: what a client may rely on, with examples.

Only descriptions: rows are made by ``verdict`` and pass through as they are.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_ROW: dict[str, Any] = {
    "path": "photo.jpg",
    "name": "photo.jpg",
    "kind": "image",
    "score": 0.83,
    "probability": 0.91,
    "decision": "fake",
    "label": "ai_generated",
    "headline": "Likely AI-generated",
    "explanation": "The model finds traces in this picture that generated ones have.",
    "model": "nano+nano_lora",
    "timings": {"open_s": 0.005, "tile_s": 0.002, "model_s": 0.1, "total_s": 0.107},
    "calibrated": True,
    "words": None,
    "frames": [],
    "stretch": None,
    "regions": [],
    "evidence": [],
    "notes": [],
    "width": 512,
    "height": 512,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}


class Row(BaseModel):
    """One file's result: a verdict, or, where ``error`` stands, why there is none. More keys than these may come."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_ROW]})

    path: str = Field(description="The client's name for the file; the same as name.")
    name: str = Field(description="The client's name for the file, cleaned. Never a path of the server.")
    headline: str = Field(description="The verdict in a few words.")
    explanation: str = Field(description="What the headline means, in one or two sentences.")
    kind: Literal["image", "video"] | None = None
    score: float | None = Field(None, ge=0, le=1, description="The model's raw P(fake).")
    probability: float | None = Field(None, ge=0, le=1, description="The same after calibration.")
    decision: Literal["authentic", "unsure", "fake"] | None = None
    label: str | None = Field(None, description="Likeliest kind: real, ai_generated, tampered, deepfake.")
    error: str | None = Field(None, description="Why this file could not be judged.")
    exit_code: int | None = Field(None, description="The kind of error: docs/exit-codes.md.")
    mask_png: str | None = Field(None, description="With mask=true, of a picture: the mask, PNG in base64.")


class DetectAnswer(BaseModel):
    """A row for each file, in their order."""

    results: list[Row]
    request_id: str = Field(description="Also in the header X-Request-Id and in the server's log.")


class JobFile(BaseModel):
    """A file of a job."""

    name: str
    sha256: str
    state: Literal["queued", "decoding", "judging", "done", "failed", "cancelled"]


class JobAnswer(BaseModel):
    """A job as it stands."""

    id: str = Field(description="Random; whoever knows it (and has the same token) sees the results.")
    state: Literal["queued", "running", "done", "failed", "cancelled", "expired"]
    stage: str
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    created_at: str
    expires_at: str
    options: dict[str, Any]
    files: list[JobFile]
    results: list[Row] | None = Field(None, description="The rows that are there by now.")


class ErrorWords(BaseModel):
    """What was found, what was expected, what to do."""

    code: str
    message: str
    expected: str
    do: str


class ErrorAnswer(BaseModel):
    """Every error has this form."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "busy",
                        "message": "64 files are waiting already",
                        "expected": "",
                        "do": "try again in 2 seconds, as Retry-After says",
                    }
                }
            ]
        },
    )
    error: ErrorWords


_MEANINGS = {
    401: "No token, or one that is not valid.",
    403: "Asked for by another site's page.",
    404: "No such job (or another token's), or no such file in it.",
    408: "The upload came too slowly.",
    409: "The job has not got there yet.",
    410: "The job has expired, or its picture is no longer kept.",
    413: "Too many bytes, or too many files.",
    415: "Nothing in it could be read as a picture or clip, or the body's type is another.",
    421: "The Host header names no name of this server.",
    422: "Options or a form that make no sense.",
    429: "The queue is full, or this caller asks too often; Retry-After says when to try again.",
    500: "A bug, or a model that could not answer.",
    503: "Shutting down, still loading, or the disk is full.",
    504: "Not done within the deadline.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses=`` of a route that may answer with these errors."""
    return {s: {"model": ErrorAnswer, "description": _MEANINGS[s]} for s in sorted({*statuses, 421, 500})}


_BINARY = {"type": "string", "format": "binary"}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Files as a form, or one file's bytes as the body (its name then stands in ?name=).",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "additionalProperties": False,
                    "properties": {"files": {"type": "array", "minItems": 1, "items": _BINARY}},
                }
            },
            "application/octet-stream": {"schema": _BINARY},
            "image/*": {"schema": _BINARY},
            "video/*": {"schema": _BINARY},
        },
    }
}
