"""API keys: what a key may do, and how often; a file holds their hashes alone.

    [keys.shop]
    hash = "sha256:5d41..."
    scopes = ["read"]
    rate_per_s = 50.0        # in place of serve.rate_per_s

A key is 32 random bytes, so that one round of SHA-256 hides it: there is nothing to guess.
"""

import hashlib
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import msgspec

from engine.errors import SettingsError

logger = logging.getLogger(__name__)

Scope = Literal["read", "report", "explain", "admin"]
SCOPES: Final[tuple[str, ...]] = get_args(Scope)
_INCLUDED: Final[dict[str, tuple[str, ...]]] = {
    "read": ("read",),
    "report": ("report",),
    "explain": ("read", "explain"),
    "admin": SCOPES,
}
"""read: lists and items. report: impressions. explain: also windows, maps and figures, which tell what users did.
admin: everything, metrics too."""
_PREFIX: Final = "headrace_"
_LOOK_EVERY_S: Final = 1.0
"""Between two looks whether the file has changed."""


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key in the file."""

    hash: Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1)]
    rate_per_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Requests a second; 0 for no limit, `serve.rate_per_s` without one."""

    def allows(self, scope: str) -> bool:
        """Whether the key has a scope, or one that includes it."""
        return any(scope in _INCLUDED[own] for own in self.scopes)


class _KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: dict[str, ApiKey]


class ApiKeys:
    """The keys of a file, which is read again when it changes; one that cannot be read then changes nothing."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: it cannot be read.
        """
        self._path = path
        self._changed_ns = 0
        self._look_due_s = 0.0
        self._by_hash = self._read()

    def find(self, secret: str) -> tuple[str, ApiKey] | None:
        """Name and rights of a key; None where there is no such key."""
        if time.monotonic() >= self._look_due_s:
            self._look()
        return self._by_hash.get(hash_of(secret))

    def _look(self) -> None:
        try:
            if self._path.stat().st_mtime_ns != self._changed_ns:
                self._by_hash = self._read()
                logger.info("%d keys are read from %s", len(self._by_hash), self._path)
        except (OSError, SettingsError) as error:
            logger.error("the keys stay as they are: %s", error)
        self._look_due_s = time.monotonic() + _LOOK_EVERY_S

    def _read(self) -> dict[str, tuple[str, ApiKey]]:
        keys = read(self._path)
        self._changed_ns = self._path.stat().st_mtime_ns
        return {key.hash: (name, key) for name, key in keys.items()}


def hash_of(secret: str) -> str:
    """The hash of a key as the file has it."""
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def read(path: Path) -> dict[str, ApiKey]:
    """The keys of a file by name.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _KeysFile).keys
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise SettingsError(
            f"serve.keys_file {path} cannot be read: {error}; expected tables [keys.NAME] with hash and scopes, as"
            " `headrace serve-key` writes them"
        ) from error


def add(path: Path, name: str, scopes: Sequence[str], rate_per_s: float | None) -> str:
    """Make a key, and add its hash to a file, which is created where it is missing; returns the key.

    Raises:
        SettingsError: the name is taken or no name, or the file cannot be read or written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise SettingsError(f"NAME: found {name!r}, expected letters, digits, - and _, at most 64; choose another name")
    if path.exists() and name in read(path):
        raise SettingsError(
            f"NAME: found {name!r}, which {path} has already, expected a new one; take its table out of the file first"
        )
    secret = _PREFIX + secrets.token_urlsafe(32)
    lines = [f"[keys.{name}]", f'hash = "{hash_of(secret)}"', f"scopes = {msgspec.json.encode(list(scopes)).decode()}"]
    lines += [] if rate_per_s is None else [f"rate_per_s = {rate_per_s!r}"]
    try:
        path.touch(mode=0o600)
        with path.open("a") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        raise SettingsError(
            f"FILE: {path} cannot be written: {error.strerror}; expected a file in a folder of yours, choose another"
        ) from error
    return secret
