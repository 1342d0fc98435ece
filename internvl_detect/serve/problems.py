"""The one form of every error over HTTP: code, message, what was expected, what to do. Never a traceback.

Not here: which situations are errors (``api``), errors of single files in a batch (their rows carry them).
"""

from __future__ import annotations

import http
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from internvl_detect.data.findings import show


class Problem(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        expected: str = "",
        do: str = "",
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"code": code, "message": message, "expected": expected, "do": do}, **(more or {})}

    def response(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse(self.body, self.status, self.headers)


def busy(message: str, retry_s: float) -> Problem:
    """429 with the seconds after which another try makes sense."""
    wait = str(max(1, min(600, round(retry_s))))
    return Problem(
        429, "busy", message, do=f"try again in {wait} seconds, as Retry-After says", headers={"Retry-After": wait}
    )


def add_handlers(app: FastAPI) -> None:
    """Every exception of a request becomes an error of this form."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> JSONResponse:
        return problem.response()

    @app.exception_handler(RequestValidationError)
    async def _options(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        message = f"{where[:100]}: {show(first.get('input'), 60)} cannot be used"
        return Problem(422, "bad_option", message, expected=str(first.get("msg", ""))[:200]).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        phrase = http.HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "_")
        return Problem(
            error.status_code, code, phrase, do="see /openapi.json", headers=dict(error.headers or {})
        ).response()

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        message = f"a bug in this program: {type(error).__name__}"
        return Problem(500, "internal", message, do="report it with the request id").response()
