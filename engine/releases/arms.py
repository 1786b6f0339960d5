"""Arms of users: who is served by a canary, by a stable hash of the user's id. Pure.

The hash is BLAKE2b with the canary's name as its key, so that it has nothing in common with the hash by which Kafka
chooses a user's partition, and each canary meets other users first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np

from engine.arrays import Int32

_HASH_BYTES: Final = 8
_MAX_KEY_BYTES: Final = 64
_HALF: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Arms:
    """The split of users into control (0) and canary (1), and within each arm into clusters."""

    salt: str
    """Another salt is another split."""
    share: float
    """Of the users that are in the canary."""
    clusters: int

    def groups(self, users: Sequence[str]) -> Int32:
        """[n] arm times `clusters` plus cluster of each user."""
        key = blake2b(self.salt.encode(), digest_size=_MAX_KEY_BYTES).digest()
        threshold = round(self.share * _HALF)
        groups = np.empty(len(users), np.int32)
        for index, user in enumerate(users):
            digest = blake2b(user.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES, key=key).digest()
            high, low = divmod(int.from_bytes(digest, "big"), _HALF)
            groups[index] = (self.clusters if high < threshold else 0) + low % self.clusters
        return groups
