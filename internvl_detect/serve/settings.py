"""What a server may use and whom it answers: one frozen object, checked when it is made.

Not here: tokens (``tokens``) and the command line (``cli.serve``).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from internvl_detect.errors import ConfigError

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Everything ``ivdetect serve`` can be told.

    ``lanes`` is how many threads run the model at a time. ``queue`` counts the files of direct requests that are taken
    at a time, ``job_queue`` those of jobs; beyond them the answer is 429. ``max_*`` bound one request: bytes of a file
    and of all, files, pixels of a picture or frame, seconds and frames of a clip. ``decode_*`` bound the process that
    decodes, by file. ``rate_per_min`` and ``concurrent`` hold for each token, or each address where there are none.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    allow_hosts: tuple[str, ...] = ()
    no_auth: bool = False
    batch_ms: float = 5.0
    batch_size: int = 8
    lanes: int = 1
    decoders: int = 2
    queue: int = 64
    job_queue: int = 2000
    deadline_s: float = 60.0
    keep: bool = False
    expire_h: float = 24.0
    cache: bool = True
    rate_per_min: int = 600
    concurrent: int = 32
    max_file_bytes: int = 256 * MIB
    max_request_bytes: int = 1024 * MIB
    max_files: int = 64
    max_pixels: int = 60_000_000
    max_duration_s: float = 900.0
    max_frames: int = 64
    upload_s: float = 300.0
    idle_s: float = 20.0
    decode_mib: int = 2048
    decode_s: float = 60.0
    connections: int = 512
    names: frozenset[str] = field(default_factory=frozenset, init=False)

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "lanes",
            "decoders",
            "queue",
            "job_queue",
            "rate_per_min",
            "concurrent",
            "max_files",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}", expected="at least 1")
        for name in ("deadline_s", "expire_h", "max_duration_s", "upload_s", "idle_s", "decode_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)}", expected="more than 0")
        if not 0 <= self.batch_ms <= 1000:
            raise ConfigError(f"batch_ms {self.batch_ms}", expected="0 to 1000 milliseconds")
        if self.decode_mib < 512:
            raise ConfigError(f"decode_mib {self.decode_mib}", expected="at least 512: a decoder itself needs some")
        names = {"localhost", *(name.lower().rstrip(".") for name in self.allow_hosts)}
        if not is_address(self.host):
            names.add(self.host.lower())
        object.__setattr__(self, "names", frozenset(names))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        return is_address(self.host) and ipaddress.ip_address(self.host).is_loopback

    def check_open(self, has_tokens: bool) -> None:
        """Raises ConfigError where others could reach a server that asks nobody for a token."""
        if not (self.is_local or has_tokens or self.no_auth):
            raise ConfigError(
                f"--host {self.host} is open to other machines, and no token exists",
                expected="a token, or --no-auth to let everyone in",
                do="run 'ivdetect serve token NAME' with the same --data-dir",
            )


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
