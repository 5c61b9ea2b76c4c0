"""How the server runs: where it listens, who may ask, and what it holds at most."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from diffdx.errors import ConfigError

LEAST_TOKEN = 16
"""Characters; a shorter token could be tried out."""


@dataclass(frozen=True)
class ServeSettings:
    """How the server runs.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        token: What every request must bring; None where only this machine can ask.
        allow_hosts: Names under which the server is reached, beside its addresses.
        queue: Jobs that wait or run at most.
        per_client: Of these, how many may come from one address.
        seconds: Longest time of a job once it runs.
        upload_bytes: Largest upload.
        upload_seconds: Longest time in which it must arrive.
        keep: Finished jobs that are kept at most.
        keep_seconds: How long they are kept.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    queue: int = 16
    per_client: int = 4
    seconds: float = 300.0
    upload_bytes: int = 64 << 20
    upload_seconds: float = 60.0
    keep: int = 64
    keep_seconds: float = 900.0

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from other machines: give a --token-file, "
                "or use --host 127.0.0.1"
            )
        if min(self.queue, self.per_client, self.keep, self.upload_bytes) < 1:
            raise ConfigError(
                f"--queue {self.queue} --max-upload {self.upload_bytes}: use at least 1 of each"
            )
        if not min(self.seconds, self.upload_seconds, self.keep_seconds) > 0:
            raise ConfigError(
                f"--timeout {self.seconds:g} --keep {self.keep_seconds:g}: use positive times"
            )


def is_loopback(host: str) -> bool:
    """Return whether an address or name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """Return the token in a file, without the white space around it.

    Raises:
        ConfigError: if there is none, or one so short or so plain that it would not protect.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--token-file {path}: cannot be read as ASCII text ({type(error).__name__})"
        ) from None
    if len(token) < LEAST_TOKEN or not token.isprintable() or " " in token:
        raise ConfigError(
            f"--token-file {path}: a token is one word of at least {LEAST_TOKEN} characters; make "
            "one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return token
