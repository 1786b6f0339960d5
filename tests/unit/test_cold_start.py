"""Cold starts in a catalogue where each user clicks items of one colour: new items are found by their colour."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="a release is trained for this test: pip install 'headrace[train]'")

import torch

from engine.arrays import NO_ITEM, Windows
from engine.catalogue.content import Item
from engine.catalogue.ids import Catalogue
from engine.errors import DataError, UnfitReleaseError
from engine.pipeline import Recommender
from engine.ranking.popularity import Popularity
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, Holdout
from engine.releases.serving import LiveRelease
from engine.retrieval import features
from engine.retrieval.index import GrownIndex
from engine.settings.sections import IndexSettings, RecommendationSettings, Settings
from models.data import splits
from models.data.dataset import Interactions
from models.evaluation.cold_start import cold_start
from models.publishing import export
from models.settings import EncoderSettings, TrainSettings
from models.training.fit import train

COLOURS = ("red", "green", "blue", "black", "white", "brown", "pink", "grey")
ITEMS, USERS, EVENTS = 200, 120, 16
LATE = 10
HELD_OUT = 0.2


def _colour(item: int) -> str:
    return COLOURS[item % len(COLOURS)]


@pytest.fixture(scope="module")
def items() -> dict[str, Item]:
    return {f"i{item}": Item(id=f"i{item}", bags={"category": [_colour(item)]}) for item in range(ITEMS)}


@pytest.fixture(scope="module")
def clicks() -> Interactions:
    """The first events of a few users are in the last tenth of time."""
    rng = np.random.default_rng(0)
    late = np.arange(USERS) >= USERS - LATE
    items = rng.integers(0, ITEMS // len(COLOURS), (USERS, EVENTS)) * len(COLOURS)
    items += (np.arange(USERS) % len(COLOURS))[:, None]
    times = np.where(late[:, None], 10_000_000, 0) + rng.integers(0, 5_000_000, (USERS, EVENTS))
    order = np.argsort(times.ravel(), kind="stable")
    return Interactions(
        users=np.repeat(np.arange(USERS, dtype=np.int32), EVENTS)[order],
        items=items.ravel().astype(np.int32)[order],
        times_ms=times.ravel()[order],
        actions=np.zeros(USERS * EVENTS, np.int32),
        user_ids=[f"u{user}" for user in range(USERS)],
        item_ids=[f"i{item}" for item in range(ITEMS)],
        action_names=[""],
    )


@pytest.fixture(scope="module")
def bundle(clicks: Interactions, items: dict[str, Item], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    sizes = EncoderSettings(
        dimensions=16, interests=2, heads=2, hidden=16, window_length=10, id_dropout=0.5, dropout=0.2
    )
    settings = TrainSettings(
        encoder=sizes, holdout="time", holdout_items=HELD_OUT, epochs=25, batch_sequences=16, learning_rate=5e-3
    )
    trained = train(clicks, settings, items=items)
    return bundles.read(export.write(trained, settings, ("two-hop", "colours"), 0, tmp_path_factory.mktemp("releases")))


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture(params=["exact", "hnsw"])
def served(request: pytest.FixtureRequest, bundle: Bundle, catalogue: Catalogue) -> LiveRelease:
    return serving.warm(bundle, catalogue, IndexSettings(kind=request.param), threads=1)


def recommender(count: int = 10) -> Recommender:
    return Recommender(RecommendationSettings(count=count), np.ones(256, np.float32), Popularity())


def window(catalogue: Catalogue, *items: str) -> Windows:
    numbers = catalogue.numbers(items)[None]
    return Windows(numbers, np.arange(len(items))[None] * 1000, np.ones(numbers.shape, np.uint8))


def test_a_release_has_the_values_of_its_items_fields(bundle: Bundle) -> None:
    assert bundle.labels is not None
    assert bundle.labels.names == sorted(("category", colour) for colour in COLOURS)
    green = {bundle.ids[row] for row in bundle.labels.rows([("category", "green")])}
    assert green == {item for item in bundle.ids if _colour(int(item[1:])) == "green"}


def test_no_item_that_was_left_out_comes_back_from_a_graph_or_a_scan(served: LiveRelease, catalogue: Catalogue) -> None:
    assert served.labels is not None
    left_out = served.numbers[served.labels.rows([("category", colour) for colour in COLOURS[:5]])]
    lists = recommender(40).recommend(window(catalogue, "i8", "i16"), served, excluded=left_out[None])
    listed = lists.items[lists.items >= 0]
    assert len(listed) == 40
    assert not np.isin(listed, left_out).any()


def test_training_saw_no_event_of_the_items_held_out(bundle: Bundle, clicks: Interactions) -> None:
    holdout = bundle.manifest.holdout
    assert (holdout.items_share, holdout.items_seed) == (HELD_OUT, 0)
    cold = splits.cold_items(clicks.item_ids, holdout)
    assert 0.1 * ITEMS < cold.sum() < 0.3 * ITEMS
    assert not {clicks.item_ids[number] for number in np.flatnonzero(cold)} & set(bundle.ids)


def test_items_are_held_out_by_id_and_seed_alone() -> None:
    ids = [f"i{number}" for number in range(1000)]
    cold = splits.cold_items(ids, Holdout(items_share=0.1, items_seed=3))
    assert splits.cold_items(ids[::-1], Holdout(items_share=0.1, items_seed=3))[::-1].tolist() == cold.tolist()
    assert splits.cold_items(ids, Holdout(items_share=0.1, items_seed=4)).tolist() != cold.tolist()
    assert 70 < cold.sum() < 130


def test_new_items_are_found_far_better_than_at_random(
    bundle: Bundle, clicks: Interactions, items: dict[str, Item]
) -> None:
    """About five of some forty new items have the user's colour: a list of ten that starts with them has the target."""
    report = cold_start(bundle, clicks, items, Settings(), lambda *_: None)
    figures = report["new_items"]
    assert figures["targets"] > 20
    assert figures["unknown_targets"] == 0
    assert figures["hr10"] > 0.95
    assert figures["hr10"] > 2.5 * figures["baselines"]["random"]["hr10"]
    assert figures["baselines"]["attribute_overlap"]["hr10"] > 0.95  # colour is all there is to know here
    assert set(report["new_users"]["clicks"]) == {"1", "2", "3", "5"}
    for figures in report["new_users"]["clicks"].values():
        assert figures["targets"] == LATE
        assert figures["hr20"] > figures["baselines"]["popularity_7d"]["hr20"]


def test_item_knn_is_a_baseline_for_new_users(bundle: Bundle, clicks: Interactions) -> None:
    """Users who clicked a red item clicked no other colour: after one click, neighbours are of the user's colour."""
    pytest.importorskip("scipy", reason="item-kNN needs scipy: pip install 'headrace[baselines]'")
    report = cold_start(bundle, clicks, {}, Settings(), lambda *_: None)["new_users"]
    assert report["skipped"] == {}
    for figures in report["clicks"].values():
        assert figures["baselines"]["item_knn"]["hr20"] > figures["baselines"]["popularity_7d"]["hr20"]


def test_without_its_extra_item_knn_is_skipped_with_the_reason(
    bundle: Bundle, clicks: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "models.evaluation.baselines.item_knn", raising=False)
    monkeypatch.delattr("models.evaluation.baselines.item_knn", raising=False)
    monkeypatch.setitem(sys.modules, "scipy", None)
    report = cold_start(bundle, clicks, {}, Settings(), lambda *_: None)["new_users"]
    assert "pip install 'headrace[baselines]'" in report["skipped"]["item_knn"]
    assert set(report["clicks"]["1"]["baselines"]) == {"popularity_7d", "last_item_neighbours"}


def test_what_cannot_be_evaluated_has_a_reason(bundle: Bundle, clicks: Interactions, items: dict[str, Item]) -> None:
    manifest = bundle.manifest
    parts = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    everything = replace(bundle, manifest=bundles.Manifest(**parts | {"holdout": Holdout()}))
    report = cold_start(everything, clicks, items, Settings(), lambda *_: None)
    assert "train with --holdout-items" in report["new_items"]["reason"]
    assert "train with --holdout time" in report["new_users"]["reason"]
    without = cold_start(bundle, clicks, {}, Settings(), lambda *_: None)
    assert "no items file" in without["new_items"]["reason"]


def test_new_items_without_known_content_are_misses(bundle: Bundle, clicks: Interactions) -> None:
    """The release was trained without prices, and a price is no attribute of `attribute_overlap`."""
    priced = {item: Item(id=item, price=2.5) for item in clicks.item_ids}
    figures = cold_start(bundle, clicks, priced, Settings(), lambda *_: None)["new_items"]
    assert figures["unknown_targets"] == figures["targets"] > 20
    assert figures["hr20"] == 0.0
    assert 0.0 < figures["baselines"]["attribute_overlap"]["hr20"] < 1.0


def test_a_new_item_is_recommended_a_moment_after_it_appears(served: LiveRelease, catalogue: Catalogue) -> None:
    """The red user's list of five has no room for a blue item; both lists are made by the same release."""
    red, blue = window(catalogue, "i0", "i8", "i16", "i24"), window(catalogue, "i2", "i10", "i18")
    grown = served.with_items([Item(id="brand new", bags={"category": ["blue"]})], catalogue)
    (number,) = catalogue.numbers(["brand new"])
    assert number in recommender(30).recommend(blue, grown).items
    assert number not in recommender(5).recommend(red, grown).items
    assert number not in recommender(30).recommend(blue, served).items
    assert served.rows(np.array([number], np.int32)).tolist() == [NO_ITEM]


def test_a_new_item_in_a_window_is_encoded(served: LiveRelease, catalogue: Catalogue) -> None:
    """A user whose only click is on a new black item gets black items."""
    grown = served.with_items([Item(id="brand new", bags={"category": ["black"]})], catalogue)
    lists = recommender(8).recommend(window(catalogue, "brand new"), grown)
    assert {_colour(int(item.removeprefix("i"))) for item in catalogue.ids(lists.items[0].tolist())} == {"black"}
    assert catalogue.ids(lists.reasons[0, :, 0].tolist()) == ["brand new"] * 2
    cold = recommender(8).recommend(window(catalogue, "brand new"), served)
    assert (cold.interests == -1).all()


def test_a_grown_release_equals_one_warmed_with_all_items(
    bundle: Bundle, served: LiveRelease, catalogue: Catalogue
) -> None:
    """Added one by one: encoder inputs and outputs are as if all vectors had been in the bundle."""
    grown = served
    for number in range(40):
        grown = grown.with_items([Item(id=f"n{number}", bags={"category": [_colour(number)]})], catalogue)
    whole = replace(
        bundle,
        ids=[*bundle.ids, *(f"n{number}" for number in range(40))],
        vectors=grown.vectors,
        popularity=grown.popularity,
    )
    warmed = serving.warm(whole, catalogue, IndexSettings(kind="exact"), threads=1)
    windows = window(catalogue, "n3", "i3", "n11", "i5")
    inputs = features.make(windows, warmed.rows(windows.items), np.ones(256, np.float32), 10)
    for actual, desired in zip(grown.encode(inputs), warmed.encode(inputs), strict=True):
        np.testing.assert_allclose(actual, desired, atol=1e-5)
    assert grown.rows(windows.items).tolist() == warmed.rows(windows.items).tolist()
    rows, scores = grown.index.search(grown.vectors[:5], 60)
    expected_rows, expected_scores = warmed.index.search(grown.vectors[:5], 60)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
    assert len(grown.index) == len(grown.vectors) == len(served.vectors) + 40
    assert isinstance(grown.index, GrownIndex) or rows.tolist() == expected_rows.tolist()


def test_releases_grown_from_one_do_not_disturb_each_other(served: LiveRelease, catalogue: Catalogue) -> None:
    first = served.with_items([Item(id="first", bags={"category": ["red"]})], catalogue)
    vectors = first.vectors.copy()
    greens, pinks = (
        first.with_items([Item(id=f"new {colour}", bags={"category": [colour]})], catalogue)
        for colour in ("green", "pink")
    )
    np.testing.assert_array_equal(first.vectors, vectors)
    assert not np.allclose(greens.vectors[-1], pinks.vectors[-1])
    for grown, colour in ((greens, "green"), (pinks, "pink")):
        windows = window(catalogue, f"new {colour}")
        inputs = features.make(windows, grown.rows(windows.items), np.ones(256, np.float32), 10)
        alone = served.with_items([Item(id=f"new {colour}", bags={"category": [colour]})], catalogue)
        expected = features.make(windows, alone.rows(windows.items), np.ones(256, np.float32), 10)
        np.testing.assert_allclose(grown.encode(inputs)[0], alone.encode(expected)[0], atol=1e-5)


def test_known_items_and_items_without_known_content_change_nothing(served: LiveRelease, catalogue: Catalogue) -> None:
    known = Item(id=catalogue.ids([int(served.numbers[0])])[0], bags={"category": ["pink"]})
    assert served.with_items([known, Item(id="silent"), Item(id="unheard", title="mauve")], catalogue) is served
    assert served.with_items([], catalogue) is served


def test_a_release_without_content_says_so(tiny_release: Path, catalogue: Catalogue) -> None:
    """A release that was trained without content serves, and refuses to add items with the way out."""
    plain = serving.warm(bundles.read(tiny_release), catalogue, IndexSettings(), threads=1)
    with pytest.raises(UnfitReleaseError, match="train a release with an items file"):
        plain.with_items([Item(id="new", title="x")], catalogue)


def test_a_vector_of_another_length_is_refused(clicks: Interactions, items: dict[str, Item]) -> None:
    uneven = items | {"i3": Item(id="i3", vector=[1.0, 2.0]), "i4": Item(id="i4", vector=[1.0])}
    with pytest.raises(DataError, match="item 'i4': its vector has 1 numbers, expected 2"):
        train(clicks, TrainSettings(), items=uneven)


def test_items_without_content_are_trained_by_their_ids(clicks: Interactions, items: dict[str, Item]) -> None:
    some = {item: content for item, content in items.items() if int(item[1:]) % 3}
    sizes = EncoderSettings(dimensions=8, interests=1, heads=1, hidden=8, window_length=10)
    trained = train(clicks, TrainSettings(encoder=sizes, epochs=1), items=some)
    assert len(trained.ids) > len(some)
    assert np.isfinite(export.vectors(trained.encoder)).all()
