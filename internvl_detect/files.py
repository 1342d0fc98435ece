"""What commands do with files and folders that a user named: read a small text, hold a folder for one run.

Both end in an error that says why not. Not here: media (``media.source``), JSON (``data.jsonl``).
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from internvl_detect.errors import ConfigError, OutputError

MAX_BYTES = 32 * 2**20
UNFINISHED = ".unfinished-"  # how the name of what is being written begins; a killed run leaves it


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


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Holds ``folder``, made if need be, for this process: two runs in one folder would take each other's files away.

    The system lets go of it however the process ends. Where folders cannot be held (Windows, some network disks) it is
    not. Raises ConfigError while another run holds it, OutputError where it is no folder and can be none.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        import fcntl

        held = os.open(folder, os.O_RDONLY)
    except ImportError:
        yield
        return
    except OSError as error:
        raise OutputError(f"{folder} cannot be used ({error.strerror or error})", do="choose another folder") from None
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                found = f"another run is at work in {folder}"
                raise ConfigError(found, do="wait for its end, or choose another folder") from None
        yield
    finally:
        os.close(held)


def is_new(folder: Path) -> bool:
    """Whether a run may begin in ``folder``: there is none, or no more in it than a run that was killed in its first
    moments leaves, unfinished files and folders without any."""
    return all(path.is_dir() or path.name.startswith(UNFINISHED) for path in folder.rglob("*"))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping of a YAML file of at most 1 MiB; empty for an empty file. Raises ConfigError naming the line."""
    text = read_text(path, what="settings file", max_bytes=2**20)
    try:
        values = yaml.load(text, Loader=YamlLoader)
        json.dumps(values, default=str)  # an alias to itself cannot be written out
    except (RecursionError, ValueError) as error:
        raise ConfigError(
            f"{path} is nested too deeply or holds a value that is none ({error})", expected="plain YAML"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {getattr(error, 'problem', error)}", expected="YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}", expected="key: value lines")
    return values


class YamlLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and reads 4e-5 as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


YamlLoader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
