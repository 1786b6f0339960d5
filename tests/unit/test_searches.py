"""Searches in a release that serves: encoded as items with their words for a title would be, and never recommended.

The release is not trained: whatever its weights are, its answers must fit one another.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="a release is made for this test: pip install 'headrace[train]'")

import torch

from engine.arrays import FIRST_SEARCH, NO_ITEM, Float32, Windows
from engine.catalogue import searches
from engine.catalogue.content import Item, features
from engine.catalogue.ids import Catalogue
from engine.contract import ContentSizes
from engine.pipeline import Recommender
from engine.ranking.lists import FROM_POPULAR, Lists
from engine.ranking.popularity import Popularity
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, NewRelease
from engine.releases.serving import LiveRelease
from engine.retrieval import tables
from engine.retrieval.features import make
from engine.settings.sections import IndexSettings, RecommendationSettings
from models.network.item_vectors import Content
from models.network.two_hop import TwoHopEncoder
from models.publishing import export, graphs
from models.settings import EncoderSettings

KINDS = ("tent", "lamp", "guitar", "teapot", "novel")
ITEMS = [Item(id=f"{kind}-{number}", title=f"{kind} no. {number}") for kind in KINDS for number in range(6)]
SEARCH = 2
"""Code of the action."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    sizes, settings = (
        ContentSizes(buckets=1 << 12),
        EncoderSettings(dimensions=8, heads=2, interests=2, window_length=6),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        content = Content(features(ITEMS, sizes), sizes, settings.dimensions)
        torch.nn.init.normal_(content.table)
        encoder = TwoHopEncoder(len(ITEMS), settings, content).eval()
    made = NewRelease(
        model="two-hop",
        version="searched",
        created_ms=0,
        contract=replace(settings.contract, content=sizes),
        holdout=bundles.Holdout(),
        encoder_onnx=graphs.encoder_graph(encoder),
        items_onnx=graphs.items_graph(encoder),
        vectors=export.vectors(encoder),
        popularity=np.ones(len(ITEMS), np.float32),
        ids=[item.id for item in ITEMS],
        content_onnx=graphs.content_graph(encoder, content),
    )
    return bundles.read(bundles.write(made, tmp_path_factory.mktemp("releases")))


class Served:
    """A warm release, and users by what they did."""

    def __init__(self, bundle: Bundle) -> None:
        self.catalogue = Catalogue()
        self.live = serving.warm(bundle, self.catalogue, IndexSettings(), threads=1)

    def windows(self, *users: list[str]) -> Windows:
        """What users clicked, and what they searched for: it has a space in it."""
        length = max(map(len, users))
        items, actions = np.full((len(users), length), NO_ITEM, np.int32), np.zeros((len(users), length), np.uint8)
        for row, events in enumerate(users):
            places = slice(length - len(events), length)
            ids = [searches.id_of(event) if " " in event else event for event in events]
            items[row, places] = self.catalogue.numbers(ids)
            actions[row, places] = [SEARCH if " " in event else 1 for event in events]
        return Windows(items, np.where(actions > 0, 60_000 * np.arange(length), 0), actions)

    def recommend(self, *users: list[str], weight: float = 1.0, count: int = 10) -> Lists:
        """Lists, where a search has this weight."""
        popularity = Popularity()
        popularity.seed(self.live.numbers, self.live.popularity)
        weights = np.array([0.0, 1.0, weight], np.float32)
        settings = RecommendationSettings(count=count)
        recommender = Recommender(settings, weights, popularity)
        return recommender.recommend(self.windows(*users), self.live)

    def interests(self, *users: list[str], by: LiveRelease | None = None) -> Float32:
        """[B, K, D] of windows, none of them cold."""
        windows, by = self.windows(*users), by or self.live
        return by.encode(make(windows, by.rows(windows.items), np.ones(3, np.float32), 6))[0]


@pytest.fixture
def served(bundle: Bundle) -> Served:
    return Served(bundle)


def test_a_search_is_encoded_as_an_item_with_such_a_title(served: Served) -> None:
    grown = served.live.with_items([Item(id="new", title="a TENT, or no lamp")], served.catalogue)
    by_search = served.interests(["lamp-1", "a tent or no lamp"], ["a tent or no lamp", "novel-2"])
    by_item = served.interests(["lamp-1", "new"], ["new", "novel-2"], by=grown)
    np.testing.assert_allclose(by_search, by_item, atol=1e-5)
    np.testing.assert_allclose(served.interests(["lamp-1", "a tent or no lamp"], by=grown), by_item[:1], atol=1e-5)
    assert not np.allclose(by_search[0], served.interests(["lamp-1", "a novel"])[0], atol=1e-2)


def test_a_search_is_never_recommended_and_is_named_as_a_reason(served: Served) -> None:
    lists = served.recommend(["a tent"], ["lamp-1", "a lamp"], count=100)
    assert ((lists.items >= NO_ITEM) & (lists.items < FIRST_SEARCH)).all()
    assert (np.sort(lists.items[0, : len(ITEMS)]) == np.arange(len(ITEMS))).all()
    assert served.catalogue.ids(lists.reasons[0, :, 0].tolist()) == [searches.id_of("a tent")] * 2
    assert lists.sources[0, 0] != FROM_POPULAR


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_search_that_counts_for_nothing_changes_no_list(served: Served, weight: float) -> None:
    with_search = served.recommend(["tent-1", "a lamp", "novel-2"], ["a lamp"], weight=weight)
    without = served.recommend(["tent-1", "novel-2"], ["lamp-1"], weight=weight)
    assert set(with_search.items[0]) == set(without.items[0])
    assert (with_search.sources[1] == FROM_POPULAR).all()


def test_words_that_say_nothing_leave_a_user_as_unknown_as_before(served: Served) -> None:
    lists = served.recommend(["xyzzy plugh"], ["tent-1", "xyzzy plugh"])
    assert (lists.sources[0] == FROM_POPULAR).all()
    assert (lists.reasons[0] == NO_ITEM).all()
    assert set(lists.reasons[1].ravel()) == {NO_ITEM, *served.catalogue.numbers(["tent-1"]).tolist()}


def test_a_release_without_content_sees_no_searches(tiny_release: Path) -> None:
    plain = Served(bundles.read(tiny_release))
    lists = plain.recommend(["a tent"], ["i1", "a tent"])
    assert (lists.sources[0] == FROM_POPULAR).all()
    assert lists.reasons.max() < FIRST_SEARCH


@given(batches=st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), min_size=1, max_size=12))
@hypothesis_settings(max_examples=20)
def test_a_few_places_are_enough_for_any_number_of_searches(bundle: Bundle, batches: list[list[str]]) -> None:
    """What fell out of the tables is put there again when a window asks for it, with the same result."""
    roomy = Served(bundle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "SEARCHES", 4)
        narrow = Served(bundle)
        rows = len(narrow.live._tables.tables["keys1"])
        for number, kinds in enumerate(batches):
            user = [f"{kind} {number % 3}" for kind in kinds]
            np.testing.assert_allclose(narrow.interests(user), roomy.interests(user), atol=1e-5)
        assert len(narrow.live._tables.tables["keys1"]) == rows == int(1.25 * len(ITEMS)) + 4


def test_more_searches_in_one_batch_than_there_are_places_leave_out_the_oldest(bundle: Bundle) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "SEARCHES", 4)
        served = Served(bundle)
        numbers = served.windows([f"tent {number}" for number in range(6)]).items
        assert (served.live.rows(numbers)[0] == NO_ITEM).tolist() == [True, True, False, False, False, False]
        assert len(set(served.live.rows(numbers)[0, 2:].tolist())) == 4
