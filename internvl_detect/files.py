"""Read a small text file that a user named: ordinary, of bounded size, in UTF-8; or an error that says why not."""

from __future__ import annotations

from pathlib import Path

from internvl_detect.errors import ConfigError

MAX_BYTES = 32 * 2**20


def read_text(path: str | Path, *, what: str, max_bytes: int = MAX_BYTES) -> str:
    """The text of ``path``; ``what`` names it in messages, for example "settings file".

    Raises ConfigError for a file that is missing, a device or pipe (which could block or never end), too large, or not
    UTF-8.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"the {what} {path} cannot be read (no such file)", do="check the path")
    if not path.is_file():
        raise ConfigError(f"the {what} {path} is no ordinary file", expected="a file")
    try:
        if path.stat().st_size > max_bytes:
            raise ConfigError(f"the {what} {path} is larger than {max_bytes} bytes", expected="a small file")
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"the {what} {path} is not text", expected="UTF-8") from None
    except OSError as error:
        raise ConfigError(f"the {what} {path} cannot be read ({error.strerror})", do="check the path") from None
