"""Indexes of items by inner product: HNSW for large catalogues, and its exact twin.

The twin is the oracle of the tests, the faster choice for small catalogues, and the fallback of HNSW. HNSW:
Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World
graphs", 2018. The only file that talks to hnswlib.
"""

import logging
from typing import Any, Final, Protocol, TypeAlias

import hnswlib
import numpy as np

from engine.arrays import Float32, Int32
from engine.settings.sections import IndexSettings

logger = logging.getLogger(__name__)

_SEED: Final = 100
RECALL_AT: Final = 40
"""Items a query that recall is measured on."""
_MOST_EF: Final = 1024
_EF_STEP: Final = 1.5
_EXACT_CHUNK: Final = 1 << 22
"""Scores that the exact index computes at once (16 MB of float32)."""


class Index(Protocol):
    """Search for the nearest items of a release, by inner product."""

    @property
    def fallbacks(self) -> int:
        """Queries since the index was built that the graph could not answer, and that were scanned exactly instead."""
        ...

    def search(self, queries: Float32, count: int) -> tuple[Int32, Float32]:
        """The `count` items with the highest scores for each query, best first.

        Args:
            queries: [Q, D]
            count: at most the number of items.

        Returns:
            item rows [Q, count] and inner products [Q, count].
        """
        ...

    def __len__(self) -> int: ...


Graph: TypeAlias = Any
"""An HNSW graph of hnswlib, with a copy of its vectors."""


def build(vectors: Float32, settings: IndexSettings, threads: int, graph: Graph | None = None) -> Index:
    """The index of `vectors` [V, D] that the settings choose.

    Args:
        vectors: of the items.
        settings: kind and size of the index.
        threads: of hnswlib.
        graph: that of an earlier index of the same vectors and settings (`graph_of`), which takes no time; None builds
            one. It is kept in memory and not on disk, because hnswlib holds the interpreter while it reads or writes.
    """
    exact = settings.kind == "exact" or (settings.kind == "auto" and len(vectors) <= settings.exact_up_to)
    return ExactIndex(vectors) if exact else HnswIndex(vectors, settings, threads, graph)


class ExactIndex:
    """Scores every item."""

    fallbacks = 0

    def __init__(self, vectors: Float32) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Float32, count: int) -> tuple[Int32, Float32]:
        """See `Index.search`."""
        rows = np.empty((len(queries), count), np.int32)
        scores = np.empty((len(queries), count), np.float32)
        step = max(1, _EXACT_CHUNK // len(self._vectors))
        for start in range(0, len(queries), step):
            chunk = slice(start, start + step)
            rows[chunk], scores[chunk] = best(queries[chunk] @ self._vectors.T, count)
        return rows, scores


class HnswIndex:
    """Searches a graph of near neighbours: approximate, in time logarithmic in the size of the catalogue."""

    def __init__(self, vectors: Float32, settings: IndexSettings, threads: int, graph: Graph | None = None) -> None:
        size, dimensions = vectors.shape
        self._vectors = vectors
        self._ef_search = settings.ef_search
        self._threads = threads
        if graph is None:
            graph = hnswlib.Index(space="ip", dim=dimensions)
            graph.init_index(size, M=settings.m, ef_construction=settings.ef_construction, random_seed=_SEED)
            graph.add_items(vectors, num_threads=threads)
        self._graph = graph
        self.fallbacks = 0

    @property
    def hnsw_graph(self) -> Graph:
        """The graph, for an index of the same vectors."""
        return self._graph

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Float32, count: int) -> tuple[Int32, Float32]:
        """See `Index.search`. A query from which the graph reaches fewer than `count` items is scanned exactly."""
        self._graph.set_ef(max(self._ef_search, count))  # each time, as an index of the same graph may have another
        try:
            return self._graph_search(queries, count)
        except RuntimeError:  # raised for all queries when one of them reaches too few
            return self._search_each(queries, count)

    def reach_recall(self, queries: Float32, target: float) -> float:
        """Raise `ef_search` until the recall for `queries` [Q, D] reaches `target`; returns the recall in the end."""
        count = min(RECALL_AT, len(self))
        exact, _ = ExactIndex(self._vectors).search(queries, count)
        while True:
            recall = recall_of(self.search(queries, count)[0], exact)
            if recall >= target or self._ef_search >= _MOST_EF:
                return recall
            self._ef_search = min(_MOST_EF, int(self._ef_search * _EF_STEP))

    def _graph_search(self, queries: Float32, count: int) -> tuple[Int32, Float32]:
        """Raises RuntimeError if the graph reaches fewer than `count` items from any of the queries."""
        labels, distances = self._graph.knn_query(queries, k=count, num_threads=self._threads)
        return labels.astype(np.int32), np.float32(1.0) - distances

    def _search_each(self, queries: Float32, count: int) -> tuple[Int32, Float32]:
        """One query at a time, to tell those that the graph answers from those to scan."""
        rows = np.empty((len(queries), count), np.int32)
        scores = np.empty((len(queries), count), np.float32)
        failed = []
        for query in range(len(queries)):
            one = slice(query, query + 1)
            try:
                rows[one], scores[one] = self._graph_search(queries[one], count)
            except RuntimeError:
                failed.append(query)
        rows[failed], scores[failed] = ExactIndex(self._vectors).search(queries[failed], count)
        self._count_fallbacks(len(failed), count)
        return rows, scores

    def _count_fallbacks(self, queries: int, count: int) -> None:
        if queries and not self.fallbacks:
            logger.warning(
                "the HNSW graph of %d items reaches fewer than %d items from some interests, which are searched exactly"
                " instead; raise index.m or index.ef_construction, or set index.kind = 'exact'",
                len(self),
                count,
            )
        self.fallbacks += queries


class GrownIndex:
    """Searches the graph of a release's items, and scans the items that came later exactly.

    The graph is never changed after it was built, so that the release that is replaced can be served meanwhile. A scan
    costs as much as an exact index of the later items; the next release has them in its graph.
    """

    def __init__(self, graph: HnswIndex, vectors: Float32) -> None:
        """`vectors` [V, D]: those of the graph, then the later ones."""
        self.graph = graph
        self._later = ExactIndex(vectors[len(graph) :])

    @property
    def fallbacks(self) -> int:
        """See `Index.fallbacks`; those of the graph, which a release shares with what it grew from."""
        return self.graph.fallbacks

    def __len__(self) -> int:
        return len(self.graph) + len(self._later)

    def search(self, queries: Float32, count: int) -> tuple[Int32, Float32]:
        """See `Index.search`."""
        rows, scores = self.graph.search(queries, min(count, len(self.graph)))
        later, later_scores = self._later.search(queries, min(count, len(self._later)))
        rows = np.concatenate([rows, later + np.int32(len(self.graph))], axis=1)
        columns, scores = best(np.concatenate([scores, later_scores], axis=1), count)
        return np.take_along_axis(rows, columns, axis=1), scores


def graph_of(index: Index) -> Graph | None:
    """The graph of an index, without the items that came later; None of an exact one."""
    graph = index.graph if isinstance(index, GrownIndex) else index
    return graph.hnsw_graph if isinstance(graph, HnswIndex) else None


def grow(index: Index, vectors: Float32) -> Index:
    """An index of `vectors` [V, D], which begin with those of `index`; that stays as it is."""
    graph = index.graph if isinstance(index, GrownIndex) else index
    return GrownIndex(graph, vectors) if isinstance(graph, HnswIndex) else ExactIndex(vectors)


def recall_of(rows: Int32, exact: Int32) -> float:
    """Share of the exact results [Q, C] that are among the results [Q, C] of the same query."""
    both = np.sort(np.concatenate([rows, exact], axis=1), axis=1)
    return float((both[:, 1:] == both[:, :-1]).sum() / exact.size)


def best(scores: Float32, count: int) -> tuple[Int32, Float32]:
    """Columns and values of the `count` highest scores of each row [Q, V], highest first, ties by column.

    Which of the columns that tie at the end are among them is up to numpy's partition.
    """
    if count < scores.shape[1]:
        columns = np.argpartition(scores, -count, axis=1)[:, -count:]
        columns.sort(axis=1)
    else:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    values = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1).astype(np.int32), np.take_along_axis(values, order, axis=1)
