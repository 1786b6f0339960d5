"""Features of an item from its content. Training and serving share this module, so that they cannot drift apart.

Words hash into a fixed number of buckets, so that no vocabulary is kept and every later item has features too
(Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009). The field is part of the hash: the
genre "western" and the title word "western" are different features. The sign, also from the hash, keeps collisions from
adding up. Each of the n features of a field weighs 1/√n, so that a long title weighs no more than a short one.

    category, genres, tags, ...    the values
    title                          its words, and their character 3- to 5-grams: parts of compounds, inflected and
                                   misspelt words, and all of a script that writes without spaces
    price                          half an octave of it
    vector                         given in the items file (of text, image or sound), scaled to length 1

A release names the version of these features (`engine.contract.CONTENT_RECIPE`), which a change of this module raises.
"""

import math
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import Float32, Int32, Int64
from engine.contract import ContentSizes
from engine.errors import DataError

MAX_TITLE: Final = 256
"""Characters of a title that are read: a longer one is a description."""
_GRAMS: Final = (3, 4, 5)
_WORD_CATEGORIES: Final = frozenset("LMNS")
"""Unicode categories of characters in words: letters, marks, numbers and symbols; all others divide words."""
_CACHED_TOKENS: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Content of an item, all of it optional."""

    id: str
    title: str = ""
    bags: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Values by name of the field (category, genres, ...)."""
    price: float | None = None
    vector: npt.ArrayLike | None = None
    """[E] vector of its text, image or sound."""


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """n features of V items, those of one item after those of another."""

    buckets: Int32
    """[n] 0 to `ContentSizes.buckets` - 1."""
    weights: Float32
    """[n] weight of each feature, with its sign."""
    starts: Int64
    """[V + 1] index of each item's first feature, and n."""
    dense: Float32
    """[V, E] given vectors at length 1; zeros for items without one."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def padded(self) -> tuple[Int32, Float32]:
        """Buckets and weights [V, F], F the largest number of an item; weight 0 for items with fewer."""
        lengths = np.diff(self.starts)
        mask = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]  # [V, F]
        buckets, weights = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.float32)
        buckets[mask], weights[mask] = self.buckets, self.weights
        return buckets, weights


def features(items: Sequence[Item], sizes: ContentSizes) -> ItemFeatures:
    """Features of V items; those of an item depend on no other item.

    Raises:
        DataError: a given vector does not have E finite numbers.
    """
    hashed = [_hashed(item, sizes.buckets) for item in items]
    lengths = [len(pairs) for pairs in hashed]
    flat = [pair for pairs in hashed for pair in pairs]
    return ItemFeatures(
        buckets=np.array([bucket for bucket, _ in flat], np.int32),
        weights=np.array([weight for _, weight in flat], np.float32),
        starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        dense=np.array([_unit(item, sizes.dense) for item in items], np.float32).reshape(len(items), sizes.dense),
    )


def words(text: str) -> list[str]:
    """Words of a text in any script, case, width and composition folded."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.translate(_SEPARATORS).split()


def _hashed(item: Item, buckets: int) -> list[tuple[int, float]]:
    """Buckets and weights of an item's features, independent of the order of its values."""
    features = list[tuple[int, float]]()
    for name, tokens in _bags(item):
        weight = 1.0 / math.sqrt(max(1, len(tokens)))
        for token in sorted(tokens):
            number, sign = _hash(name, token)
            features.append((number % buckets, sign * weight))
    return features


def _bags(item: Item) -> Iterator[tuple[str, set[str]]]:
    """Each field of an item as a bag of tokens."""
    for name in sorted(item.bags):
        yield name, {" ".join(words(value)) for value in item.bags[name]} - {""}
    title_words = set(words(item.title[:MAX_TITLE]))
    yield "title", title_words
    yield "title.grams", {gram for word in title_words for gram in _grams(f" {word} ")}
    if item.price is not None and 0.0 < item.price < math.inf:
        yield "price", {str(round(2.0 * math.log2(item.price)))}


def _grams(word: str) -> Iterator[str]:
    for length in _GRAMS:
        for start in range(len(word) - length + 1):
            yield word[start : start + length]


@lru_cache(maxsize=_CACHED_TOKENS)
def _hash(name: str, token: str) -> tuple[int, float]:
    """A number of 63 bits, for the bucket, and a sign: the same on every machine and in every process."""
    digest = blake2b(f"{name}\0{token}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    return number >> 1, 1.0 if number & 1 else -1.0


def _unit(item: Item, size: int) -> Float32:
    """[E] the given vector, scaled to length 1."""
    if item.vector is None or not size:
        return np.zeros(size, np.float32)
    vector = np.asarray(item.vector, np.float32)
    if vector.shape != (size,):
        raise DataError(
            f"item {item.id!r}: its vector has {vector.size} numbers, expected {size} as in all others;"
            " mend it, or leave the vector out"
        )
    if not np.isfinite(vector).all():
        raise DataError(
            f"item {item.id!r}: its vector holds {vector[~np.isfinite(vector)][0]}, which is not finite,"
            " expected numbers alone; mend it, or leave the vector out"
        )
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 0.0 else vector


class _Separators(dict[int, int]):
    """Table for `str.translate`: a space for every character that divides words."""

    def __missing__(self, code: int) -> int:
        replacement = code if unicodedata.category(chr(code))[0] in _WORD_CATEGORIES else ord(" ")
        self[code] = replacement
        return replacement


_SEPARATORS: Final = _Separators()
