"""Evaluation of lists with items that came after training, as a worker would list them at the time of each query."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from engine.arrays import NO_ITEM
from engine.contract import NeighbourSizes
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, Holdout, NeighbourArrays
from engine.retrieval.stream_neighbours import StreamNeighbours
from engine.settings.sections import IndexSettings, RecommendationSettings, Settings
from models.data.dataset import Interactions
from models.data.popularity_at import HOUR_MS
from models.evaluation.list_evaluation import RELEASE
from models.evaluation.queries import EvalData, pushed_order, queries_since
from models.evaluation.recorded_stream import RecordedStream, of_later_items
from models.evaluation.release_under_test import BaselineComparison, ReleaseRecommender, ReleaseUnderTest
from producers.demo.bundled import DEMO_RELEASE

START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
SPLIT_MS = START_MS + 20 * HOUR_MS
NEW = "came after training"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The demo's release with an empty table of neighbours."""
    demo = bundles.read(DEMO_RELEASE)
    shape = (demo.manifest.items, 1)
    nothing = NeighbourArrays(np.full(shape, NO_ITEM, np.int32), np.zeros(shape, np.float32))
    sizes = NeighbourSizes(count=1, last_items=10, decay=0.8, weight=4.0, floor=0.01)
    contract = replace(demo.manifest.contract, neighbours=sizes, log_partition=10.0)
    manifest = msgspec.structs.replace(demo.manifest, contract=contract, holdout=Holdout(from_ms=SPLIT_MS))
    return replace(demo, manifest=manifest, neighbours=nothing)


@pytest.fixture(scope="module")
def interactions(bundle: Bundle) -> Interactions:
    """Twenty hours of known items, then users who click a known item and, an hour later, the new one."""
    rng = np.random.default_rng(0)
    known = [(user, int(rng.integers(50)), START_MS + user * 10_000) for user in range(200) for _ in range(3)]
    later = [(200 + n, 7, SPLIT_MS + n * HOUR_MS) for n in range(12)]
    later += [(200 + n, 50, SPLIT_MS + (n + 1) * HOUR_MS) for n in range(12)]
    users, items, times_ms = np.array(sorted(known + later, key=lambda event: event[2])).T
    ids = [*bundle.ids[:50], NEW]
    names = [f"u{user}" for user in range(212)]
    actions = np.zeros(len(users), np.int32)
    return Interactions(users.astype(np.int32), items.astype(np.int32), times_ms, actions, names, ids, [""])


def settings(stream_neighbours: int) -> Settings:
    return Settings(recommendations=RecommendationSettings(stream_neighbours=stream_neighbours))


@pytest.mark.parametrize("stream_neighbours", [0, 100])
def test_new_items_are_hit_as_a_worker_lists_them(
    bundle: Bundle, interactions: Interactions, stream_neighbours: int
) -> None:
    under_test = ReleaseUnderTest(bundle, interactions, settings(stream_neighbours))
    queries = queries_since(under_test, SPLIT_MS)
    release = ReleaseRecommender(under_test.live, under_test, queries.popularity_mask)
    comparison = BaselineComparison(under_test, {RELEASE: release})
    comparison.run(queries)
    comparison.evaluate_pushed(queries, "pushed", lambda *_: None)
    is_new = interactions.items[comparison.targets] == 50
    is_hit = comparison.ranks <= 10
    first = np.flatnonzero(is_new)[0]
    assert not is_hit[first]  # nobody had clicked it before
    assert is_hit[is_new][3:].all() == bool(stream_neighbours)
    figures = comparison.figures()
    assert figures["unknown_targets"] == 12
    assert figures["pushed"]["hr10"] < figures["hr10"] or not stream_neighbours  # made an hour before


def test_the_pushed_queries_are_the_same_by_the_time_before(bundle: Bundle, interactions: Interactions) -> None:
    under_test = ReleaseUnderTest(bundle, interactions, settings(0))
    queries = queries_since(under_test, SPLIT_MS)
    pushed = pushed_order(under_test, queries)
    newest_ms = np.concatenate([windows.times_ms.max(axis=1) for windows, _ in pushed.batches()])
    events = np.concatenate([batch for _, batch in pushed.batches()])
    pushed_ms = np.where(newest_ms > 0, newest_ms, interactions.times_ms[events])
    assert (np.diff(pushed_ms) >= 0).all()
    assert (newest_ms > 0).sum() == 12
    assert sorted(events.tolist()) == queries.targets.tolist()


def test_counts_are_those_of_the_events_so_far_whichever_way_time_goes(
    bundle: Bundle, interactions: Interactions
) -> None:
    eval_data = EvalData(interactions, settings(100))
    live = serving.warm(bundle, eval_data.catalogue, IndexSettings(kind="exact"), threads=1)
    stream = of_later_items(live, eval_data, eval_data.target_mask, 100)
    assert isinstance(stream, RecordedStream)
    numbers = np.arange(51, dtype=np.int32)
    seen = list[StreamNeighbours]()
    for hours in (26, 30, 24, 30):
        stream.move_to(START_MS + hours * HOUR_MS + 1_000)
        seen.append(stream.counts)
        until_ms = START_MS + hours * HOUR_MS
        counted = interactions.times_ms < until_ms
        clicks = np.bincount(interactions.items[counted], minlength=51)
        shares = stream.counts.shares(numbers)
        assert (shares > 0).tolist() == (clicks > 0).tolist()
        assert shares.sum() == pytest.approx(1.0, rel=1e-4)
        near = stream.counts.of(np.array([50], np.int32))
        assert near.items.tolist() == ([7] if (counted & (interactions.items == 50)).any() else [])
    assert seen[1] is seen[0] is not seen[2]
    np.testing.assert_allclose(seen[1].shares(numbers), seen[3].shares(numbers), rtol=1e-5)


def test_without_later_items_nothing_is_counted(bundle: Bundle, interactions: Interactions) -> None:
    eval_data = EvalData(interactions, settings(100))
    live = serving.warm(bundle, eval_data.catalogue, IndexSettings(kind="exact"), threads=1)
    early = interactions.times_ms < SPLIT_MS
    assert of_later_items(live, eval_data, early, 100) is None
    assert of_later_items(live, eval_data, eval_data.target_mask, 0) is None
