"""HNSW compared with exact search, on trained vectors and interests."""

import numpy as np
import pytest

from engine.arrays import NO_ITEM, Float32, Int32, Windows
from engine.catalogue.ids import Catalogue
from engine.releases import bundles, serving
from engine.retrieval import features
from engine.retrieval.index import ExactIndex, HnswIndex, Index, build, graph_of, grow
from engine.settings.sections import IndexSettings
from producers.demo.bundled import DEMO_RELEASE

COUNT = 40
USERS = 200


@pytest.fixture(scope="module")
def trained() -> tuple[Float32, Float32]:
    """Item vectors [V, D] of a trained release, and interests [Q, D] of windows over its items."""
    served = serving.warm(bundles.read(DEMO_RELEASE), Catalogue(), IndexSettings(kind="exact"), threads=1)
    rng = np.random.default_rng(0)
    near: Int32 = served.index.search(served.vectors[rng.integers(0, len(served.vectors), USERS)], 30)[0]
    windows = Windows(
        items=served.numbers[near],
        times_ms=np.broadcast_to(np.arange(near.shape[1]) * 60_000, near.shape),
        actions=np.ones(near.shape, np.uint8),
    )
    inputs = features.make(windows, near, np.ones(256, np.float32), served.contract.window_length)
    interests, _ = served.encode(inputs)
    return served.vectors, interests.reshape(-1, interests.shape[2])


def recall(approximate: Int32, exact: Int32) -> float:
    """Share of the exact results [Q, C] that are among the approximate ones of the same query."""
    hits = [len(np.intersect1d(*pair)) for pair in zip(approximate, exact, strict=True)]
    return sum(hits) / exact.size


def test_the_recall_of_hnsw_is_high(trained: tuple[Float32, Float32]) -> None:
    vectors, interests = trained
    exact, _ = ExactIndex(vectors).search(interests, COUNT)
    approximate, _ = HnswIndex(vectors, IndexSettings(), threads=1).search(interests, COUNT)
    assert recall(approximate, exact) >= 0.98


def test_a_poor_graph_is_searched_as_deep_as_its_recall_takes(trained: tuple[Float32, Float32]) -> None:
    vectors, interests = trained
    index = HnswIndex(vectors, IndexSettings(m=4, ef_construction=20, ef_search=10), threads=1)
    exact, _ = ExactIndex(vectors).search(interests, COUNT)
    before = recall(index.search(interests, COUNT)[0], exact)
    assert before < 0.95
    reached = index.reach_recall(interests, 0.95)
    assert reached >= 0.95
    assert recall(index.search(interests, COUNT)[0], exact) == pytest.approx(reached)
    assert HnswIndex(vectors, IndexSettings(m=4, ef_construction=20, ef_search=10), threads=1).reach_recall(
        interests, 0.0
    ) == pytest.approx(before)


def test_a_warm_release_knows_its_recall() -> None:
    exact = serving.warm(bundles.read(DEMO_RELEASE), Catalogue(), IndexSettings(kind="exact"), threads=1)
    poor = IndexSettings(kind="hnsw", m=4, ef_construction=20, ef_search=10)
    assert exact.recall == 1.0
    tuned = serving.warm(bundles.read(DEMO_RELEASE), Catalogue(), poor, threads=1)
    left = poor.model_copy(update={"target_recall": 0.0, "least_recall": 0.0})
    assert serving.warm(bundles.read(DEMO_RELEASE), Catalogue(), left, threads=1).recall < 0.95 <= tuned.recall


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_scores_are_inner_products_best_first(kind: str, trained: tuple[Float32, Float32]) -> None:
    vectors, interests = trained
    index: Index = build(vectors, IndexSettings(kind=kind), threads=1)  # type: ignore[arg-type]
    rows, scores = index.search(interests, COUNT)
    assert rows.shape == scores.shape == (len(interests), COUNT)
    assert (rows != NO_ITEM).all()
    assert all(len(set(row)) == COUNT for row in rows.tolist())
    np.testing.assert_allclose(scores, np.einsum("qd,qcd->qc", interests, vectors[rows]), rtol=1e-3, atol=1e-3)
    assert (np.diff(scores, axis=1) <= 1e-5).all()


def test_exact_search_is_a_full_sort() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 1], [-1, 0]], np.float32)
    rows, scores = ExactIndex(vectors).search(np.array([[1, 0.5]], np.float32), 3)
    assert rows.tolist() == [[2, 0, 1]]
    assert scores.tolist() == [[1.5, 1.0, 0.5]]


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_search_can_return_every_item(kind: str) -> None:
    vectors = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    index = build(vectors, IndexSettings(kind=kind, m=2, ef_construction=2, ef_search=1), threads=1)  # type: ignore[arg-type]
    rows, _ = index.search(vectors[:5], len(vectors))
    assert [sorted(row) for row in rows.tolist()] == [list(range(300))] * 5


@pytest.fixture
def poor_graph() -> tuple[HnswIndex, Float32]:
    """A graph with so few links that some queries [Q, D] reach fewer than COUNT items, and those queries."""
    vectors = np.random.default_rng(2).normal(size=(3000, 4)).astype(np.float32)
    settings = IndexSettings(kind="hnsw", m=2, ef_construction=5, ef_search=1)
    return HnswIndex(vectors, settings, threads=1), vectors[:100]


def test_only_queries_that_the_graph_cannot_answer_are_scanned(
    poor_graph: tuple[HnswIndex, Float32], caplog: pytest.LogCaptureFixture
) -> None:
    index, queries = poor_graph
    rows, scores = index.search(queries, COUNT)
    scanned = index.fallbacks
    assert 0 < scanned < len(queries)
    exact = ExactIndex(index._vectors)
    for query in range(len(queries)):
        before = index.fallbacks
        one = slice(query, query + 1)
        alone, alone_scores = index.search(queries[one], COUNT)
        assert rows[query].tolist() == alone[0].tolist()
        np.testing.assert_allclose(scores[query], alone_scores[0], rtol=1e-5)
        if index.fallbacks > before:
            assert rows[query].tolist() == exact.search(queries[one], COUNT)[0][0].tolist()
    assert index.fallbacks == 2 * scanned
    (record,) = caplog.records  # once, however many queries there were
    assert record.levelname == "WARNING"
    assert "reaches fewer than 40 items" in record.getMessage()


def test_an_index_that_grew_counts_what_its_graph_counts(poor_graph: tuple[HnswIndex, Float32]) -> None:
    index, queries = poor_graph
    grown = grow(index, np.concatenate([index._vectors, queries]))
    grown.search(queries, COUNT)
    assert grown.fallbacks == index.fallbacks > 0
    assert grow(ExactIndex(queries), queries).fallbacks == 0


def test_a_sound_graph_needs_no_scan(trained: tuple[Float32, Float32], caplog: pytest.LogCaptureFixture) -> None:
    vectors, interests = trained
    index = HnswIndex(vectors, IndexSettings(), threads=1)
    index.search(interests, COUNT)
    assert index.fallbacks == 0
    assert not caplog.records


def test_the_size_of_the_catalogue_decides_between_the_two() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    assert isinstance(build(vectors, IndexSettings(exact_up_to=50), threads=1), ExactIndex)
    assert isinstance(build(vectors, IndexSettings(exact_up_to=49), threads=1), HnswIndex)


def test_an_index_by_the_graph_of_an_earlier_one_finds_the_same(trained: tuple[Float32, Float32]) -> None:
    vectors, interests = trained
    settings = IndexSettings(kind="hnsw")
    first = build(vectors, settings, threads=1)
    graph = graph_of(grow(first, np.concatenate([vectors, vectors[:1]])))
    again = build(vectors, settings, threads=1, graph=graph)
    for before, after in zip(first.search(interests, COUNT), again.search(interests, COUNT), strict=True):
        np.testing.assert_array_equal(before, after)
    assert graph_of(again) is graph_of(first) is graph
    assert graph_of(build(vectors, IndexSettings(kind="exact"), threads=1)) is None
