"""A release ready to serve: graphs loaded, attention tables computed, index built, everything run once.

Items that come after training are added from their content (`LiveRelease.with_items`). A search gets its vector in the
same way, from its words, when a window with it is encoded: the encoder sees searches, the index does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from engine import contract
from engine.arrays import FIRST_SEARCH, NO_ITEM, Bool, Float32, Int32
from engine.catalogue import content, searches
from engine.catalogue.content import Item
from engine.catalogue.ids import Catalogue, Pin
from engine.catalogue.labels import ItemLabels
from engine.contract import Contract
from engine.errors import UnfitReleaseError
from engine.releases.bundles import Bundle, Manifest
from engine.retrieval import candidates
from engine.retrieval.encoder import ContentEncoder, Encoder
from engine.retrieval.features import Features
from engine.retrieval.index import Graph, HnswIndex, Index, build, grow
from engine.retrieval.item_neighbours import NeighbourTable
from engine.retrieval.tables import EmbeddingTables
from engine.settings.sections import IndexSettings

_DRY_RUN_USERS: Final = 8
_SAMPLE_USERS: Final = 64
"""Windows, of items near one another, from whose interests recall is measured."""
_SAMPLE_EVENTS: Final = 10
_SPARE_NUMBERS: Final = 1024


class _Rows:
    """The release's row by item number; NO_ITEM for a number that is not the release's."""

    def __init__(self, numbers: Int32) -> None:
        self._rows = np.full(int(numbers.max()) + 2 + _SPARE_NUMBERS, NO_ITEM, np.int32)  # [number + 1]
        self._rows[numbers + 1] = np.arange(len(numbers), dtype=np.int32)

    def of(self, numbers: Int32) -> Int32:
        # Clipping sends every number beyond the array to its last element, which is always NO_ITEM.
        return np.take(self._rows, numbers + 1, mode="clip")


@dataclass(frozen=True, slots=True)
class LiveRelease:
    """A release in use. Everything but the rows of searches is immutable, so a swap is one assignment."""

    manifest: Manifest
    vectors: Float32
    """[V, D]"""
    numbers: Int32
    """[V] catalogue number of each row."""
    popularity: Float32
    """[V]"""
    index: Index
    recall: float
    """Share of the items nearest to an interest that a search finds, measured when the release was warmed; 1 for exact
    search."""
    neighbours: NeighbourTable | None
    """Of the items that the release was trained with; None in a release without."""
    labels: ItemLabels | None
    """Of the same items; None in a release without."""
    _rows: _Rows
    _encoder: Encoder
    _tables: EmbeddingTables
    _content: ContentEncoder | None
    _ids: Callable[[Sequence[int]], list[str]]
    """Ids of items and searches by number (`Catalogue.ids`)."""
    _pins: tuple[Pin, ...]
    """Keep the numbers of the items from being freed for other items."""

    @property
    def name(self) -> str:
        """Model and version, as lists name the release."""
        return self.manifest.name

    @property
    def is_blended(self) -> bool:
        """Whether scores have parts other than those of interests."""
        return self.neighbours is not None or self.contract.popularity is not None

    @property
    def known_items(self) -> int:
        """Number of the items with neighbours of their own, the first of the rows; 0 in a release without a table."""
        return 0 if self.neighbours is None else len(self.neighbours)

    @property
    def lists_later_items(self) -> bool:
        """True for a release with which items without a vector can be listed, by their counts in the stream."""
        return self.neighbours is not None and self.contract.log_partition is not None

    @property
    def contract(self) -> Contract:
        """Sizes of the release's graphs."""
        return self.manifest.contract

    def rows(self, numbers: Int32) -> Int32:
        """Table rows of items and searches by number, in the shape of `numbers`; NO_ITEM for those without a vector.

        Items have the rows from 0 to V - 1. The row of a search is valid until the next call.
        """
        rows = self._rows.of(numbers)
        is_search = numbers >= FIRST_SEARCH
        if self._content is not None and is_search.any():
            rows[is_search] = self._search_rows(numbers[is_search], self._content)
        return rows

    def candidate_rows(self, numbers: Int32) -> Int32:
        """Rows of items among candidates, in the shape of `numbers`: V + number for an item without a vector.

        NO_ITEM for searches, NO_ITEM itself, and numbers beyond what candidates can hold.
        """
        rows = self._rows.of(numbers)
        beyond = len(self.numbers) + numbers
        has_beyond = (rows == NO_ITEM) & (numbers >= 0) & (beyond < candidates.MAX_ITEMS)
        return np.where(has_beyond, beyond, rows).astype(np.int32)

    def candidate_numbers(self, rows: Int32) -> Int32:
        """Item numbers by row among candidates, in the shape of `rows`; NO_ITEM for NO_ITEM."""
        beyond = rows - np.int32(len(self.numbers))
        numbers = np.where(beyond >= 0, beyond, self.numbers[np.where(beyond >= 0, 0, rows)])
        return np.where(rows < 0, np.int32(NO_ITEM), numbers)

    def forget_searches(self) -> None:
        """Drop the rows of searches; called when the numbers of searches have changed."""
        self._tables.forget_searches()

    def is_item(self, rows: Int32) -> Bool:
        """Mask of the rows that are items: neither searches nor NO_ITEM."""
        mask: Bool = (rows >= 0) & (rows < len(self.numbers))
        return mask

    def encode(self, features: Features) -> tuple[Float32, Float32]:
        """Interests [B, K, D] and attention [B, K, L] of B windows, none of them cold."""
        return self._encoder.encode(self._tables.tables, features.rows, features.ages, features.weights)

    def with_items(self, items: Sequence[Item], catalogue: Catalogue) -> "LiveRelease":
        """A release with these items added, their vectors computed from content; this one stays unchanged.

        An item that has a vector keeps it. An item none of whose features the release was trained with is left out. Of
        several items with one id the first counts.

        Raises:
            UnfitReleaseError: the release was trained without content, or its content graph returns a value that is
                not finite.
            DataError: an item's `vector` holds a value that is not a finite number, or its length is not the one that
                the release was trained with.
        """
        if self._content is None:
            raise UnfitReleaseError(
                f"release {self.name} was trained without item content, so no items can be added to it; train a release"
                " with an items file"
            )
        pin = catalogue.pin([item.id for item in items])
        numbers, first = np.unique(pin.numbers, return_index=True)
        new = self.rows(numbers) == NO_ITEM
        numbers, first = numbers[new], first[new]
        if not len(numbers):
            return self
        vectors = self._content.vectors(content.features([items[index] for index in first], self._content.sizes))
        if not np.isfinite(vectors).all():
            raise UnfitReleaseError(
                f"release {self.name}: {contract.CONTENT_FILE} returns values that are not finite, expected numbers;"
                " train it again"
            )
        has_vector = vectors.any(axis=1)
        return self._grown(numbers[has_vector], vectors[has_vector], pin) if has_vector.any() else self

    def _search_rows(self, numbers: Int32, encoder: ContentEncoder) -> Int32:
        """[n] rows of searches, encoded and written to the tables where they have no slot."""
        distinct, inverse = np.unique(numbers, return_inverse=True)
        slots, new = self._tables.assign_slots(distinct)
        if len(new):
            items = [*map(searches.as_item, self._ids(distinct[new].tolist()))]
            vectors = encoder.vectors(content.features(items, encoder.sizes))
            has_vector: Bool = (vectors != 0.0).any(axis=1) & np.isfinite(vectors).all(axis=1)
            self._tables.write_searches(slots[new], self._encoder.tables(vectors), has_vector)
        return self._tables.search_rows(slots)[inverse]

    def _grown(self, numbers: Int32, vectors: Float32, pin: Pin) -> "LiveRelease":
        """This release with further items of these pinned numbers [n] and vectors [n, D]."""
        before, after, tables = len(self.numbers), len(self.numbers) + len(numbers), self._tables
        _refuse_too_many(self.name, after)
        if not tables.can_grow(before, after):
            tables = EmbeddingTables(tables.items(before), after)
        tables.append(self._encoder.tables(vectors))
        all_vectors = tables.vectors()
        all_numbers = np.concatenate([self.numbers, numbers])
        return replace(
            self,
            vectors=all_vectors,
            numbers=all_numbers,
            popularity=np.concatenate([self.popularity, np.zeros(len(numbers), np.float32)]),
            index=grow(self.index, all_vectors),
            _rows=_Rows(all_numbers),
            _tables=tables,
            _pins=(*self._pins, pin),
        )


def warm(
    bundle: Bundle, catalogue: Catalogue, settings: IndexSettings, threads: int, graph: Graph | None = None
) -> LiveRelease:
    """Load a verified bundle, build its index and run it once; takes seconds for a large catalogue and holds no lock.

    Args:
        bundle: a verified one.
        catalogue: numbers the items.
        settings: of the index.
        threads: of onnxruntime and hnswlib.
        graph: of the index, where it was built before, see `index.build`.

    Raises:
        UnfitReleaseError: a graph does not load, differs from the contract or returns a value that is not finite,
            there are more items than can be served, or searches find too few of the nearest (`index.least_recall`).
    """
    _refuse_too_many(str(bundle.folder), bundle.manifest.items)
    encoder = Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract, threads)
    pin = catalogue.pin(bundle.ids)
    numbers = pin.numbers
    tables = EmbeddingTables(encoder.tables(bundle.vectors), len(numbers))
    live = LiveRelease(
        manifest=bundle.manifest,
        vectors=tables.vectors(),
        numbers=numbers,
        popularity=bundle.popularity,
        index=build(tables.vectors(), settings, threads, graph),
        recall=1.0,
        neighbours=_neighbours(bundle),
        labels=bundle.labels,
        _rows=_Rows(numbers),
        _encoder=encoder,
        _tables=tables,
        _content=_content_encoder(bundle, threads),
        _ids=catalogue.ids,
        _pins=(pin,),
    )
    _dry_run(live)
    return _with_recall(live, settings)


def _neighbours(bundle: Bundle) -> NeighbourTable | None:
    sizes = bundle.manifest.contract.neighbours
    if sizes is None or bundle.neighbours is None:
        return None
    return NeighbourTable(bundle.neighbours.rows, bundle.neighbours.weights, sizes)


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
    """Encode full windows of the first items and search near their interests, so that a fault shows before a swap."""
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
            f"release {live.name}: the encoder returns interests {interests.shape} and attention {attention.shape},"
            f" the contract says {expected} and {(*expected[:2], shape[1])}; export the release again"
        )
    if not (np.isfinite(interests).all() and np.isfinite(attention).all()):
        raise UnfitReleaseError(
            f"release {live.name}: the encoder returns values that are not finite, expected numbers; train it again"
        )
    live.index.search(interests.reshape(-1, expected[2]), min(len(live.index), 10))


def _with_recall(live: LiveRelease, settings: IndexSettings) -> LiveRelease:
    """The release with its recall measured, and its index searched as deep as the settings' target takes.

    Raises:
        UnfitReleaseError: the recall is below the settings' bound.
    """
    if not isinstance(live.index, HnswIndex):
        return live
    recall = live.index.reach_recall(_sample_interests(live), settings.target_recall)
    if recall < settings.least_recall:
        raise UnfitReleaseError(
            f"release {live.name}: searches of its index find {recall:.2f} of the nearest items, setting"
            f" 'index.least_recall' expects {settings.least_recall}; raise index.m and index.ef_construction, or set"
            " index.kind = 'exact'"
        )
    return replace(live, recall=recall)


def _sample_interests(live: LiveRelease) -> Float32:
    """[Q, D] interests of windows whose items are near one another, as those of a user's interest are."""
    seeds = np.random.default_rng(0).integers(0, len(live.numbers), _SAMPLE_USERS)
    length = min(_SAMPLE_EVENTS, live.contract.window_length, len(live.numbers))
    rows, _ = live.index.search(live.vectors[seeds], length)
    newest_last = np.arange(length - 1, -1, -1, dtype=np.float32)
    ages = np.broadcast_to(np.log1p(newest_last), rows.shape)
    sample = Features(rows=rows, numbers=rows, ages=ages, weights=np.ones(rows.shape, np.float32))
    interests, _ = live.encode(sample)
    return interests.reshape(-1, live.contract.dimensions)
