"""A release made ready to serve: graphs loaded, attention tables computed, index built, everything run once."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from engine import candidates
from engine.catalogue import Catalogue
from engine.columns import NO_ITEM, Float32, Int32
from engine.contract import Contract
from engine.encoder import Encoder, Tables
from engine.errors import UnfitReleaseError
from engine.features import Features
from engine.index import Index, build
from engine.release import Bundle, Manifest
from engine.settings import IndexSettings

_DRY_RUN_USERS: Final = 8
_FIRST_ROW_SLACK: Final = 1024


class _Rows:
    """The release's row of each item number; numbers given out after the release was warmed have none."""

    def __init__(self, numbers: Int32) -> None:
        self._rows = np.full(int(numbers.max()) + 2 + _FIRST_ROW_SLACK, NO_ITEM, np.int32)  # [number + 1]
        self._rows[numbers + 1] = np.arange(len(numbers), dtype=np.int32)

    def of(self, numbers: Int32) -> Int32:
        # Clipping sends every number beyond the array to its last place, which is always NO_ITEM.
        return np.take(self._rows, numbers + 1, mode="clip")


@dataclass(frozen=True, slots=True)
class LiveRelease:
    """What serves the lists until the next release. Immutable: a swap is one assignment."""

    manifest: Manifest
    vectors: Float32
    """[V, D]"""
    numbers: Int32
    """[V] catalogue number of each row."""
    popularity: Float32
    """[V]"""
    index: Index
    _rows: _Rows
    _encoder: Encoder
    _tables: Tables

    @property
    def name(self) -> str:
        """How lists name this release."""
        return self.manifest.name

    @property
    def contract(self) -> Contract:
        """Sizes of the release's graphs."""
        return self.manifest.contract

    def rows(self, numbers: Int32) -> Int32:
        """The release's row of each item number; NO_ITEM for items that it does not know."""
        return self._rows.of(numbers)

    def encode(self, features: Features) -> tuple[Float32, Float32]:
        """Interests [B, K, D] and attention [B, K, L] of B windows, none of them cold."""
        return self._encoder.encode(self._tables, features.rows, features.ages, features.weights)


def warm(bundle: Bundle, catalogue: Catalogue, settings: IndexSettings, threads: int) -> LiveRelease:
    """Make a verified bundle ready to serve; takes seconds for a large catalogue and holds no lock meanwhile.

    Raises:
        UnfitReleaseError: a graph does not load, differs from the contract or gives values that are not finite.
    """
    if bundle.manifest.items > candidates.MAX_ITEMS:
        raise UnfitReleaseError(
            f"release {bundle.folder}: {bundle.manifest.items} items, at most {candidates.MAX_ITEMS} can be served"
        )
    encoder = Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract, threads)
    numbers = catalogue.numbers(bundle.ids)
    live = LiveRelease(
        manifest=bundle.manifest,
        vectors=bundle.vectors,
        numbers=numbers,
        popularity=bundle.popularity,
        index=build(bundle.vectors, settings, threads),
        _rows=_Rows(numbers),
        _encoder=encoder,
        _tables=encoder.tables(bundle.vectors),
    )
    _dry_run(live)
    return live


def _dry_run(live: LiveRelease) -> None:
    """Encode and search full windows of the first items, so that what fails, fails before it goes live."""
    shape = (_DRY_RUN_USERS, live.contract.window_length)
    rows = np.resize(np.arange(len(live.numbers), dtype=np.int32), shape)
    features = Features(
        rows=rows,
        numbers=rows,
        ages=np.zeros(shape, np.float32),
        weights=np.ones(shape, np.float32),
    )
    interests, attention = live.encode(features)
    expected = (_DRY_RUN_USERS, live.contract.interests, live.contract.dimensions)
    if interests.shape != expected or attention.shape != (*expected[:2], shape[1]):
        raise UnfitReleaseError(
            f"release {live.name}: encoder gives interests {interests.shape} and attention {attention.shape},"
            f" the contract says {expected} and {(*expected[:2], shape[1])}"
        )
    if not (np.isfinite(interests).all() and np.isfinite(attention).all()):
        raise UnfitReleaseError(f"release {live.name}: the encoder gives values that are not finite")
    live.index.search(interests.reshape(-1, expected[2]), min(len(live.index), 10))
