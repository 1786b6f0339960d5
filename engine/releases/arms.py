"""Arms of users: who is served by what in a canary or an experiment, by a stable hash of the user's id. Pure.

The hash is BLAKE2b with the salt as its key, so that it has nothing in common with the hash by which Kafka chooses a
user's partition, and each canary or experiment splits the users in its own way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np

from engine.arrays import Int32, UInt32, UInt64

NO_GROUP: Final = -1
"""Group of a user who is in no arm, or whose clicks are not judged."""
_HASH_BYTES: Final = 8
_MAX_KEY_BYTES: Final = 64
_HALF_BITS: Final = 32
_HALF: Final = 1 << _HALF_BITS
_WHOLE: Final = 1.0 - 1e-9
"""Shares that add up to more than this leave no user out."""


@dataclass(frozen=True, slots=True)
class Arms:
    """The split of users into arms, of which the first is the control, and within each arm into clusters.

    On the line of hashes the control comes last: a canary with a larger share keeps the users whom it has.
    """

    salt: str
    """Another salt is another split."""
    shares: tuple[float, ...]
    """[A] of all users, by arm; they add up to at most 1."""
    clusters: int

    def groups(self, users: Sequence[str]) -> Int32:
        """[n] arm times `clusters` plus cluster of each user; NO_GROUP for those in no arm."""
        return self.groups_of(self.hashes(users))

    def hashes(self, users: Sequence[str]) -> UInt64:
        """[n] hash of each user."""
        key = blake2b(self.salt.encode("utf-8", "surrogatepass"), digest_size=_MAX_KEY_BYTES).digest()
        digests = (
            blake2b(user.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES, key=key).digest() for user in users
        )
        return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)

    def groups_of(self, hashes: UInt64) -> Int32:
        """See `groups`, by the hashes [n] of users."""
        places = hashes >> np.uint64(_HALF_BITS)
        bounds = np.cumsum([*self.shares[1:], self.shares[0]])
        thresholds = np.where(bounds > _WHOLE, _HALF, np.rint(bounds * _HALF)).astype(np.uint64)
        arm = np.searchsorted(thresholds, places, side="right") + 1
        arm[arm == len(self.shares)] = 0
        clusters = (hashes % np.uint64(self.clusters)).astype(np.int64)
        return np.where(arm > len(self.shares), NO_GROUP, arm * self.clusters + clusters).astype(np.int32)


def tickets(hashes: UInt64) -> UInt32:
    """[n] the half of each hash [n] that says nothing about the arm: a uniform number by which users are sampled."""
    return (hashes & np.uint64(_HALF - 1)).astype(np.uint32)
