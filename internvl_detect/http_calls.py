"""One HTTP request and its answer, over the standard library: streamed up, bounded down, tried again, ended in time.

What a stranger's server may do is bounded: an answer has a largest size and a deadline that dripping bytes do not
extend, redirects are never followed (a token would go with them), TLS is verified. Proxies of the environment are not
used. Not here: what is asked (``client`` for our own server, ``detect.openai_asker`` for others').
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from internvl_detect.errors import ConfigError, IvdetectError, MediaError, ServerError

MAX_ANSWER = 64 * 2**20
BUSY = (429, 503)  # tried again, after Retry-After
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0


@dataclass(frozen=True)
class Body:
    """What is sent: ``chunks`` gives its bytes anew for each try, ``length`` of them."""

    chunks: Callable[[], Iterable[bytes]]
    length: int
    kind: str


@dataclass(frozen=True)
class Answer:
    """A whole answer of status 200 to 299; ``headers`` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The JSON object that the body is; raises ServerError for anything else."""
        try:
            content = json.loads(self.body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            start = plain(self.body[:60].decode("utf-8", "replace"))
            raise ServerError(f"the server's answer is no JSON object: {start!r}", expected="the API of this program")
        return content


def json_body(content: Mapping[str, Any]) -> Body:
    """A JSON object to be sent."""
    encoded = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    return Body(lambda: [encoded], len(encoded), "application/json")


class Caller:
    """Asks one server. May be used from several threads; every call has a connection of its own.

    ``timeout`` is how many seconds a call may take in all, waiting and further tries included. ``retries`` is how often
    a busy or vanished server is asked again. ``ca_file``: PEM certificates to trust in place of the system's.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        ca_file: str | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ConfigError(f"the address {url!r:.200}", expected="http://host:port or https://host") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"the address {url!r:.200}", expected="http://host:port or https://host")
        if parts.username is not None or parts.password is not None:
            raise ConfigError("an address with a password in it", expected="a token apart from the address")
        if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token and token):
            raise ConfigError("the token is empty or has characters that no token has", do="check the variable")
        if not timeout > 0 or retries < 0:
            raise ConfigError(f"timeout {timeout}, retries {retries}", expected="seconds above 0, retries from 0")
        self.host, self.port, self.secure = parts.hostname, port, parts.scheme == "https"
        self.prefix = parts.path.rstrip("/")
        self.name = f"{parts.scheme}://{parts.netloc}{self.prefix}"
        self.timeout, self.retries = timeout, retries
        self._token = token
        self._tls = _tls(ca_file) if self.secure else None

    def call(
        self,
        method: str,
        target: str,
        body: Body | None = None,
        *,
        again: bool = True,
        max_bytes: int = MAX_ANSWER,
        timeout: float | None = None,
    ) -> Answer:
        """The answer to one request; ``target`` is a path with its query, already quoted.

        A busy server (429, 503) is asked again after its Retry-After or a growing pause; one that drops the connection
        only when ``again`` says that asking twice does no harm. Raises MediaError for a file that the server refuses,
        ConfigError for a token or an option that it refuses, ServerError for all else that is no good answer.
        """
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        for attempt in range(self.retries + 1):
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * random.uniform(0.75, 1.25)
            try:
                status, headers, content = self._once(method, target, body, until, max_bytes)
            except _Unsent as lost:
                if attempt == self.retries or not (again or lost.untouched) or time.monotonic() + wait >= until:
                    raise lost.error from None
            else:
                if 200 <= status < 300:
                    return Answer(status, headers, content)
                wait = _retry_after(headers, wait)
                if status not in BUSY or attempt == self.retries or time.monotonic() + wait >= until:
                    raise self._refused(status, headers, content)
            time.sleep(wait)
        raise AssertionError("a call ends in its last try")

    @contextlib.contextmanager
    def stream(self, target: str, *, timeout: float) -> Iterator[Iterator[bytes]]:
        """The lines of an answer as they come, each at most 1 MiB; ``timeout`` seconds in all. One try."""
        with self._connection(time.monotonic() + timeout) as (connection, watch):
            try:
                watch.connect()
                connection.request("GET", self.prefix + target, headers=self._headers(None, "text/event-stream"))
                answer = connection.getresponse()
                if answer.status != 200:
                    raise self._refused(answer.status, _lower(answer), answer.read(MAX_ANSWER))
                yield iter(lambda: answer.readline(2**20), b"")
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._broken(error, watch) from None

    def _once(
        self, method: str, target: str, body: Body | None, until: float, max_bytes: int
    ) -> tuple[int, dict[str, str], bytes]:
        reached = False
        with self._connection(until) as (connection, watch):
            try:
                watch.connect()
                reached = True
                # It may refuse an upload before its end: the answer then says why.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sent = body.chunks() if body else None
                    connection.request(method, self.prefix + target, sent, self._headers(body))
                answer = connection.getresponse()
                content = answer.read(max_bytes + 1)
                left = answer.length
            except (OSError, http.client.HTTPException, ValueError) as error:
                failed = self._broken(error, watch)
                raise (failed if watch.rang else _Unsent(failed, untouched=not reached)) from None
            if watch.rang:
                raise self._broken(TimeoutError(), watch)
        if len(content) > max_bytes:
            raise ServerError(f"the server's answer is larger than {max_bytes} bytes", expected="a small answer")
        if left:
            raise _Unsent(ServerError(f"{self.name} ended its answer too early"), untouched=False)
        return answer.status, _lower(answer), content

    @contextlib.contextmanager
    def _connection(self, until: float) -> Iterator[tuple[http.client.HTTPConnection, _Watch]]:
        left = max(0.001, until - time.monotonic())
        if self._tls is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self.host, self.port, timeout=left, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=left)
        watch = _Watch(connection, left)
        try:
            yield connection, watch
        finally:
            watch.stop()
            connection.close()

    def _headers(self, body: Body | None, accept: str = "*/*") -> dict[str, str]:
        found = {"Accept": accept, "User-Agent": "ivdetect", "Connection": "close"}
        if self._token is not None:
            found["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            found |= {"Content-Type": body.kind, "Content-Length": str(body.length)}
        return found

    def _broken(self, error: Exception, watch: _Watch) -> ServerError:
        if watch.rang or isinstance(error, TimeoutError):
            return ServerError(
                f"{self.name} gave no whole answer in {watch.seconds:.3g} s", do="try later, or wait longer"
            )
        why = error.strerror or str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted ({error.verify_message})"
        return ServerError(f"{self.name} cannot be asked: {plain(why)}", do="check the address and that it runs")

    def _refused(self, status: int, headers: Mapping[str, str], content: bytes) -> IvdetectError:
        if 300 <= status < 400:
            where = plain(headers.get("location", "nowhere"))
            return ServerError(
                f"{self.name} redirects to {where}", expected="an answer", do="give that address if you trust it"
            )
        said = _said(content)
        found = f"{self.name} answers {status}: {said.get('message') or http.client.responses.get(status, 'no reason')}"
        kind = {400: ConfigError, 401: ConfigError, 403: ConfigError, 404: ConfigError, 422: ConfigError}.get(status)
        kind = kind or {413: MediaError, 415: MediaError}.get(status, ServerError)
        do = {401: "give a token (--token-env)", 403: "use a token that may do this", 404: "check the address"}
        return kind(found, expected=said.get("expected", ""), do=said.get("do") or do.get(status, ""))


class _Unsent(Exception):
    """A try that came to nothing for want of a connection; ``untouched``: the server has seen nothing of it."""

    def __init__(self, error: ServerError, *, untouched: bool) -> None:
        super().__init__(str(error))
        self.error, self.untouched = error, untouched


class _Watch:
    """Ends a connection at its deadline, whatever state it is in: no timeout of single reads can."""

    def __init__(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        self.connection, self.seconds, self.rang = connection, seconds, False
        self._sock: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def connect(self) -> None:
        self.connection.connect()
        self._sock = self.connection.sock  # the connection forgets it as soon as an answer begins

    def _end(self) -> None:
        self.rang = True
        held = self._sock or self.connection.sock
        if held is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(held, socket.SHUT_RDWR)

    def stop(self) -> None:
        self._timer.cancel()


def plain(text: str, most: int = 300) -> str:
    """A stranger's text on one line: control characters as escapes, at most ``most`` characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificates {ca_file} cannot be read ({error})", expected="a PEM file") from None


def _lower(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


def _retry_after(headers: Mapping[str, str], default: float) -> float:
    """Seconds to wait: a number, or a date (RFC 9110, 10.2.3)."""
    said = headers.get("retry-after", "").strip()
    if said.isdigit() and len(said) < 9:
        return float(said)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    return default


def _said(content: bytes) -> dict[str, str]:
    """message, expected and do of an error's body, as far as it has them."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    inner = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(inner, str):
        return {"message": plain(inner)}
    if not isinstance(inner, dict):
        return {}
    return {k: plain(inner[k]) for k in ("message", "expected", "do") if isinstance(inner.get(k), str)}


def _no_constant(name: str) -> Any:
    raise ValueError(name)
