"""Object storage by address: which addresses may be read, and ranges of what they name, as fsspec does it.

What reads s3:// or gs:// (s3fs, gcsfs; aiohttp for https://) is installed by those who need it, and takes its keys
from the environment as it always does. Not here: what is in the objects (``members``), writing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from internvl_detect.data.findings import show
from internvl_detect.errors import IvdetectError, MediaError

SCHEMES = ("s3", "gs", "https", "memory")


class NotThere(MediaError):
    """A shard, a member or an object that does not exist."""


def is_address(path: str) -> bool:
    """Whether a root or a path under it is read from a store, not from this machine's files."""
    return "://" in path[:12]


def why_not(address: str, *, allowed: bool) -> str:
    """What to do instead of reading from an address; empty when it may be and can be.

    Meta files come from strangers, so an address in one is read only where the user has allowed it.
    """
    scheme, _, rest = address.partition("://")
    if scheme not in SCHEMES or not address.isprintable() or not rest.strip("/"):
        return "download it and give its path"
    if not allowed:
        return "download it and give its path, or allow it: --set allow_remote=true, or data check --allow-remote"
    try:
        import fsspec

        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        return f"install what reads {scheme}:// ({error})"
    return ""


def with_store(path: str, use: Callable[[Any], Any]) -> Any:
    """What ``use`` gives for the file system of an address. Raises MediaError, NotThere.

    The scheme alone chooses it: a chain of addresses in a stranger's path is never followed. It is asked for each
    time, as a fork must not go on with its parent's connections.
    """
    import fsspec

    try:
        return use(fsspec.filesystem(path.partition("://")[0]))
    except IvdetectError:
        raise
    except FileNotFoundError:
        raise NotThere(f"{show(path, 300)} does not exist", expected="an object of the store") from None
    except Exception as error:  # noqa: BLE001 - every store has errors of its own
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise MediaError(f"{show(path, 300)} could not be read: {words}") from None


def fetch(path: str, start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` of an object, fewer where it ends before. Raises MediaError, NotThere."""
    return with_store(path, lambda store: store.cat_file(path, start=start, end=end))
