"""How much one caller may ask for: so many requests a minute, so many at once, and few wrong tokens.

    with limits.hold("token:ci"): ...   # raises Problem 429

A caller is a token, or an address where there are none. Not here: the server's own queue (``api``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from internvl_detect.serve.problems import busy

_MOST_CALLERS = 10_000
WRONG_TOKENS_A_MINUTE = 20


@dataclass
class _Caller:
    left: float  # requests that may come at once; refilled by time
    at: float
    running: int = 0


class Limits:
    """Token buckets of one minute, and counts of what is running."""

    def __init__(self, rate_per_min: int, concurrent: int) -> None:
        self.rate_per_min, self.concurrent = rate_per_min, concurrent
        self._callers: dict[str, _Caller] = {}
        self._wrong: dict[str, _Caller] = {}

    @contextmanager
    def hold(self, caller: str) -> Iterator[None]:
        """One request of this caller. Raises Problem 429."""
        one = self._take(self._callers, caller, self.rate_per_min)
        if one.running >= self.concurrent:
            one.left += 1
            raise busy(f"{one.running} requests of yours are running", 1)
        one.running += 1
        try:
            yield
        finally:
            one.running -= 1

    def wrong_token(self, address: str) -> None:
        """Count a wrong token from this address; a right one is not counted. Raises Problem 429 after too many."""
        self._take(self._wrong, address, WRONG_TOKENS_A_MINUTE)

    def _take(self, callers: dict[str, _Caller], name: str, most: int) -> _Caller:
        now = time.monotonic()
        one = callers.get(name)
        if one is None:
            if len(callers) >= _MOST_CALLERS:
                self._tidy(callers, most, now)
            one = callers[name] = _Caller(most, now)
        one.left = min(float(most), one.left + (now - one.at) * most / 60)
        one.at = now
        if one.left < 1:
            raise busy(f"more than {most} requests a minute", 60 * (1 - one.left) / most)
        one.left -= 1
        return one

    @staticmethod
    def _tidy(callers: dict[str, _Caller], most: int, now: float) -> None:
        for name in [n for n, c in callers.items() if not c.running and c.left + (now - c.at) * most / 60 >= most]:
            del callers[name]
        while len(callers) >= _MOST_CALLERS:
            idle = next((n for n, c in callers.items() if not c.running), None)
            if idle is None:
                return
            del callers[idle]
