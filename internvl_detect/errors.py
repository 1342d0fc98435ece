"""The one error tree: what was found, what was expected, what to do; and the exit code of each kind.

A user's mistake never ends in a traceback: every error that user input can cause is one of these, and
the command line prints its message and leaves with its ``exit_code``. Not for bugs: those stay ordinary exceptions.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_SOME_FAILED = 1
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


class IvdetectError(Exception):
    """An error with a cause that the user can act on.

    ``found`` says what was met (with its path), ``expected`` what would have been right, ``do`` the next step.
    """

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", do: str = "") -> None:
        self.found, self.expected, self.do = found, expected, do
        parts = [found.rstrip(".")]
        if expected:
            parts.append(f"expected {expected.rstrip('.')}")
        if do:
            parts.append(do.rstrip("."))
        said = ". ".join(p[0].upper() + p[1:] if i else p for i, p in enumerate(parts))
        super().__init__(said if said.endswith("?") else said + ".")

    def __reduce__(self):  # keyword arguments survive a process pool
        return _rebuild, (type(self), self.found, self.expected, self.do)


def _rebuild(kind: type[IvdetectError], found: str, expected: str, do: str) -> IvdetectError:
    return kind(found, expected=expected, do=do)


class ConfigError(IvdetectError):
    """A command line, an environment variable or a settings file that does not make sense."""

    exit_code = 2


class MediaError(IvdetectError):
    """A picture or clip that cannot or must not be read: broken, truncated, too large, not media at all."""

    exit_code = 3


class CheckpointError(IvdetectError):
    """Model files that are missing, incomplete, of an unknown kind, or do not fit each other."""

    exit_code = 4


class AdapterError(CheckpointError):
    """A LoRA adapter that does not belong to the base it was given with."""


class DataError(IvdetectError):
    """Training or test data (meta JSON, JSONL, manifest) with rows that cannot be used."""

    exit_code = 5


class OutputError(IvdetectError):
    """Results that could not be written: disk full, no permission."""

    exit_code = 6


class ResourceError(IvdetectError):
    """The machine is too small for the settings: memory, above all."""

    exit_code = 7


class ServerError(IvdetectError):
    """A server that cannot be reached, is busy for too long, or answers what it should not."""

    exit_code = 8
