"""A release made ready to serve: graphs loaded, attention tables computed, index built, everything run once.

Items that come after training are added from their content (`LiveRelease.with_items`). Searches get their vectors in
the same way, from their words, when windows ask for them: the encoder sees them, the index does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from engine import contract
from engine.arrays import FIRST_SEARCH, NO_ITEM, Bool, Float32, Int32
from engine.catalogue import content, searches
from engine.catalogue.content import Item
from engine.catalogue.ids import Catalogue
from engine.contract import Contract
from engine.errors import UnfitReleaseError
from engine.releases.bundles import Bundle, Manifest
from engine.retrieval import candidates
from engine.retrieval.encoder import ContentEncoder, Encoder
from engine.retrieval.features import Features
from engine.retrieval.index import Index, build, grow
from engine.retrieval.tables import EmbeddingTables
from engine.settings.sections import IndexSettings

_DRY_RUN_USERS: Final = 8
_FIRST_ROW_SLACK: Final = 1024


class _Rows:
    """The release's row of each item number; numbers given out after these were written down have none."""

    def __init__(self, numbers: Int32) -> None:
        self._rows = np.full(int(numbers.max()) + 2 + _FIRST_ROW_SLACK, NO_ITEM, np.int32)  # [number + 1]
        self._rows[numbers + 1] = np.arange(len(numbers), dtype=np.int32)

    def of(self, numbers: Int32) -> Int32:
        # Clipping sends every number beyond the array to its last place, which is always NO_ITEM.
        return np.take(self._rows, numbers + 1, mode="clip")


@dataclass(frozen=True, slots=True)
class LiveRelease:
    """What serves the lists until the next release. A swap is one assignment, as all but the searches is immutable."""

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
    _shelf: EmbeddingTables
    """Where the tables stand."""
    _content: ContentEncoder | None
    _ids: Callable[[Sequence[int]], list[str]]
    """Of items and searches, by number."""

    @property
    def name(self) -> str:
        """How lists name this release."""
        return self.manifest.name

    @property
    def contract(self) -> Contract:
        """Sizes of the release's graphs."""
        return self.manifest.contract

    def rows(self, numbers: Int32) -> Int32:
        """The table row of each item or search; NO_ITEM for those of which the release knows nothing.

        Items have the rows from 0 to V - 1. What a search has holds until the next call.
        """
        rows = self._rows.of(numbers)
        searched = numbers >= FIRST_SEARCH
        if self._content is not None and searched.any():
            rows[searched] = self._search_rows(numbers[searched], self._content)
        return rows

    def forget_searches(self) -> None:
        """Searches were numbered anew."""
        self._shelf.forget_searches()

    def items_among(self, rows: Int32) -> Bool:
        """Which of these rows are items: neither searches nor NO_ITEM."""
        among: Bool = (rows >= 0) & (rows < len(self.numbers))
        return among

    def encode(self, features: Features) -> tuple[Float32, Float32]:
        """Interests [B, K, D] and attention [B, K, L] of B windows, none of them cold."""
        return self._encoder.encode(self._shelf.tables, features.rows, features.ages, features.weights)

    def with_items(self, items: Sequence[Item], catalogue: Catalogue) -> "LiveRelease":
        """This release, able to recommend and to encode these items too, by what their content says.

        An item that has a vector keeps it. One whose content says nothing that the release has learned about stays
        unknown. Of several with the same id the first counts. This release itself stays as it is.

        Raises:
            UnfitReleaseError: the release was trained without content, or gives values that are not finite.
            DataError: an item's given vector is none, or not as long as those that the release was trained with.
        """
        if self._content is None:
            raise UnfitReleaseError(
                f"release {self.name} knows no items but its own; train it with an items file to add others"
            )
        numbers, first = np.unique(catalogue.numbers([item.id for item in items]), return_index=True)
        new = self.rows(numbers) == NO_ITEM
        numbers, first = numbers[new], first[new]
        if not len(numbers):
            return self
        vectors = self._content.vectors(content.features([items[place] for place in first], self._content.sizes))
        if not np.isfinite(vectors).all():
            raise UnfitReleaseError(
                f"release {self.name}: {contract.CONTENT_FILE} gives values that are not finite, expected numbers;"
                " train it again"
            )
        told = vectors.any(axis=1)
        return self._grown(numbers[told], vectors[told]) if told.any() else self

    def _search_rows(self, numbers: Int32, encoder: ContentEncoder) -> Int32:
        """[n] rows of searches, which are put into the tables where they are not there any more."""
        distinct, which = np.unique(numbers, return_inverse=True)
        places, new = self._shelf.assign_slots(distinct)
        if len(new):
            asked = [*map(searches.as_item, self._ids(distinct[new].tolist()))]
            vectors = encoder.vectors(content.features(asked, encoder.sizes))
            told: Bool = (vectors != 0.0).any(axis=1) & np.isfinite(vectors).all(axis=1)
            self._shelf.fill(places[new], self._encoder.tables(vectors), told)
        return self._shelf.search_rows(places)[which]

    def _grown(self, numbers: Int32, vectors: Float32) -> "LiveRelease":
        """With items of these numbers [n], none of them known, and vectors [n, D]."""
        before, after, shelf = len(self.numbers), len(self.numbers) + len(numbers), self._shelf
        _refuse_too_many(self.name, after)
        if not shelf.has_room(before, after):
            shelf = EmbeddingTables(shelf.items(before), after)
        shelf.put(self._encoder.tables(vectors))
        everything = shelf.vectors()
        all_numbers = np.concatenate([self.numbers, numbers])
        return replace(
            self,
            vectors=everything,
            numbers=all_numbers,
            popularity=np.concatenate([self.popularity, np.zeros(len(numbers), np.float32)]),
            index=grow(self.index, everything),
            _rows=_Rows(all_numbers),
            _shelf=shelf,
        )


def warm(bundle: Bundle, catalogue: Catalogue, settings: IndexSettings, threads: int) -> LiveRelease:
    """Make a verified bundle ready to serve; takes seconds for a large catalogue and holds no lock meanwhile.

    Raises:
        UnfitReleaseError: a graph does not load, differs from the contract or gives values that are not finite.
    """
    _refuse_too_many(str(bundle.folder), bundle.manifest.items)
    encoder = Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract, threads)
    numbers = catalogue.numbers(bundle.ids)
    shelf = EmbeddingTables(encoder.tables(bundle.vectors), len(numbers))
    live = LiveRelease(
        manifest=bundle.manifest,
        vectors=shelf.vectors(),
        numbers=numbers,
        popularity=bundle.popularity,
        index=build(shelf.vectors(), settings, threads),
        _rows=_Rows(numbers),
        _encoder=encoder,
        _shelf=shelf,
        _content=_content_encoder(bundle, threads),
        _ids=catalogue.ids,
    )
    _dry_run(live)
    return live


def _content_encoder(bundle: Bundle, threads: int) -> ContentEncoder | None:
    sizes = bundle.manifest.contract
    if sizes.content is None or bundle.content_onnx is None:
        return None
    encoder = ContentEncoder(bundle.content_onnx, sizes.content, sizes.dimensions, threads)
    encoder.vectors(content.features([Item(id="dry run", title="dry run")], sizes.content))
    return encoder


def _refuse_too_many(release: str, items: int) -> None:
    if items > candidates.MAX_ITEMS:
        raise UnfitReleaseError(
            f"release {release}: {items} items, at most {candidates.MAX_ITEMS} can be served;"
            " train it without those that are rare"
        )


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
            f" the contract says {expected} and {(*expected[:2], shape[1])}; export the release again"
        )
    if not (np.isfinite(interests).all() and np.isfinite(attention).all()):
        raise UnfitReleaseError(
            f"release {live.name}: the encoder gives values that are not finite, expected numbers; train it again"
        )
    live.index.search(interests.reshape(-1, expected[2]), min(len(live.index), 10))
