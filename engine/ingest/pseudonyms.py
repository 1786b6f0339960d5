"""Pseudonyms of users: a keyed hash in the place of the id, from the first step on.

    pseudonym = base64url(BLAKE2b-128(key = BLAKE2b-256(key file), id in UTF-8))    22 characters, no padding

Windows, the changelog, lists, snapshots, spilled windows and the archive then hold pseudonyms alone. Without the key
nobody gets from one to the id, not even by trying all ids (Aumasson and others, BLAKE2, 2013: a keyed hash is a MAC).
Whoever has the key and an id gets the same pseudonym, so that a user can be shown and forgotten by id. The topics of
clicks and of dead letters hold what producers sent.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from engine.arrays import Clicks
from engine.errors import SettingsError
from engine.settings.secret_files import secret_in
from engine.settings.sections import ClickSettings

_MIN_KEY_BYTES: Final = 32
_BYTES: Final = 16
"""128 bits: no two of a billion users share one (a chance of 10^-21)."""
_CACHED: Final = 1 << 14
"""Users whose pseudonym is kept, as most clicks are of those who clicked just now."""


class Pseudonyms:
    """Pseudonyms by `clicks.pseudonym_key_file`; ids as they are where it is not set.

    Raises:
        SettingsError: the key cannot be read, or is short.
    """

    def __init__(self, settings: ClickSettings) -> None:
        self._key = _key(settings)
        self.of: Callable[[str], str] = (lambda user: user) if self._key is None else lru_cache(_CACHED)(self._hash)
        """The pseudonym of a user's id."""

    def applied(self, clicks: Clicks) -> Clicks:
        """Clicks and requests to forget with pseudonyms; a key that is the user's id is the pseudonym, too."""
        if self._key is None:
            return clicks
        users = list(map(self.of, clicks.users))
        keys = [
            user.encode() if _names(key, name) else key
            for key, name, user in zip(clicks.keys, clicks.users, users, strict=True)
        ]
        forgotten = [replace(request, user=self.of(request.user)) for request in clicks.forgotten]
        return replace(clicks, users=users, keys=keys, forgotten=forgotten)

    def _hash(self, user: str) -> str:
        digest = hashlib.blake2b(user.encode("utf-8", "surrogatepass"), key=self._key or b"", digest_size=_BYTES)
        return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


def _key(settings: ClickSettings) -> bytes | None:
    path = settings.pseudonym_key_file
    if path is None:
        return None
    text = secret_in(path, "clicks.pseudonym_key_file").encode()
    if len(text) < _MIN_KEY_BYTES:
        raise SettingsError(
            f"setting 'clicks.pseudonym_key_file': found {len(text)} bytes in {str(path)!r}, expected {_MIN_KEY_BYTES}"
            " or more that nobody can guess; write such a key (openssl rand -base64 32) before the first click is read,"
            " and keep it: another key makes every user a new one"
        )
    return hashlib.blake2b(text, digest_size=32).digest()


def _names(key: bytes | None, user: str) -> bool:
    """True if a record's key is the user's id, bare or in quotes."""
    name = user.encode("utf-8", "surrogatepass")
    return key in (name, b'"%b"' % name)
