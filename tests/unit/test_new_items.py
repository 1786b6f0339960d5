"""Items that came after training: found by users who clicked near them, counted again after a restart, forgotten."""

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.arrays import NO_ITEM
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.contract import NeighbourSizes, PopularityScore
from engine.eventlog.base import Outgoing, Rebalance, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.metrics import Metrics
from engine.pipeline import begin_counts
from engine.ranking.click_counts import ClickCounts
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, NeighbourArrays, Provenance
from engine.settings.sections import IndexSettings, RecommendationSettings, Settings, WindowSettings
from engine.view.followed_windows import FollowedWindows, NewEvents
from engine.worker.batch import Processor
from producers.demo.bundled import DEMO_RELEASE

START_MS = 1_700_000_000_000
SIZES = NeighbourSizes(count=1, last_items=10, decay=0.8, weight=16.0, floor=0.01)
NEW = "came after training"
LOG_PARTITION = 10.0
"""About what the demo's release has."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The demo's release with a table of neighbours in which nothing has any: all of them come from the stream."""
    demo = bundles.read(DEMO_RELEASE)
    shape = (demo.manifest.items, 1)
    nothing = NeighbourArrays(np.full(shape, NO_ITEM, np.int32), np.zeros(shape, np.float32))
    trained_before = msgspec.structs.replace(demo.manifest, provenance=Provenance(until_ms=START_MS))
    release = replace(demo, manifest=trained_before, neighbours=nothing)
    return with_parts(release, neighbours=SIZES, log_partition=LOG_PARTITION)


def with_parts(bundle: Bundle, **parts: Any) -> Bundle:
    contract = replace(bundle.manifest.contract, **parts)
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, contract=contract))


@dataclass
class Shop:
    """A worker's processor on the in-process log."""

    bundle: Bundle
    settings: RecommendationSettings = field(default_factory=RecommendationSettings)
    clock_ms: int = START_MS

    def __post_init__(self) -> None:
        chosen = Settings(windows=WindowSettings(max_users=200), recommendations=self.settings)
        self.metrics, self.catalogue, self.log = Metrics(), Catalogue(), MemoryLog()
        self.processor = Processor(chosen, self.catalogue, self.metrics)
        self.processor.swap(self.warm(self.bundle))
        self.log.ensure_topics([TopicSpec(topic) for topic in ("clicks", "recommendations", "windows")])
        self.session = self.log.session(["clicks"], "shop", Rebalance())
        self.lists = self.log.reader(["recommendations"])

    def warm(self, bundle: Bundle) -> Any:
        return serving.warm(bundle, self.catalogue, IndexSettings(kind="exact"), threads=1)

    def click(self, user: str, *items: str | None) -> Recommendation | None:
        """The list after these clicks, one batch; None is a request to forget the user."""
        values: list[bytes | None] = []
        for item in items:
            self.clock_ms += 60_000
            click = {"user": user, "item": item, "ts": self.clock_ms}
            values.append(None if item is None else msgspec.json.encode(click))
        self.log.producer().send(Outgoing("clicks", [user.encode()] * len(values), values))
        self.processor.process(self.session.poll(0.0, 1000), self.session)
        sent = [value for records in self.lists.poll(0.0, 1000) for value in records.values]
        return decode_recommendation(sent[-1]) if sent and sent[-1] is not None else None

    def successor(self) -> "Shop":
        """Another worker, with these windows restored and counted."""
        shop = Shop(self.bundle, self.settings, self.clock_ms)
        shop.processor.windows.load(self.processor.windows.pack(0), 0)
        shop.catalogue_of(self)
        shop.processor.restored([0])
        while shop.processor.count_restored():
            pass
        return shop

    def catalogue_of(self, other: "Shop") -> None:
        """Number items as the other one does: packed windows hold its numbers."""
        self.catalogue.numbers(other.catalogue.ids([*range(other.catalogue.end)]))


def items_of(message: Recommendation | None, places: int = 10) -> list[str]:
    assert message is not None
    return [listed.item for listed in message.items[:places]]


def crowd(shop: Shop) -> None:
    """Twelve hundred clicks on known items, beside which ten are a small share."""
    for number in range(60):
        shop.click(f"crowd-{number}", *shop.bundle.ids[100 + 20 * number : 120 + 20 * number])


def ten_click_it(shop: Shop, near: str) -> None:
    for number in range(10):
        shop.click(f"early-{number}", near, NEW)


def test_a_new_item_with_ten_clicks_is_found_by_those_who_click_near_it(bundle: Bundle) -> None:
    shop, near, far = Shop(bundle), bundle.ids[7], bundle.ids[900]
    crowd(shop)
    assert NEW not in items_of(shop.click("first", near))
    ten_click_it(shop, near)
    message = shop.click("ann", bundle.ids[20], near)
    listed = {item.item: item for item in message.items} if message else {}
    assert NEW in items_of(message)
    assert listed[NEW].source == "neighbour"
    assert listed[NEW].neighbour_of == near
    assert listed[NEW].interest == -1
    assert NEW not in items_of(shop.click("bob", far))
    shop.processor.set_gauges()
    assert shop.metrics.stream_items._value.get() == 2  # the two items of the pair


def test_without_the_setting_a_new_item_is_listed_nowhere(bundle: Bundle) -> None:
    shop = Shop(bundle, RecommendationSettings(stream_neighbours=0))
    ten_click_it(shop, bundle.ids[7])
    assert NEW not in items_of(shop.click("ann", bundle.ids[7]), 20)


def test_a_release_in_whose_scores_neighbours_have_no_part_lists_no_new_item(bundle: Bundle) -> None:
    shop = Shop(with_parts(replace(bundle, neighbours=None), neighbours=None))
    ten_click_it(shop, bundle.ids[7])
    assert NEW not in items_of(shop.click("ann", bundle.ids[7]), 20)


def test_users_of_new_items_alone_get_their_neighbours(bundle: Bundle) -> None:
    shop, near = Shop(bundle), bundle.ids[7]
    ten_click_it(shop, near)
    message = shop.click("ann", NEW)
    assert items_of(message)[0] == near
    assert message is not None
    assert message.items[0].source == "neighbour"
    assert message.items[0].neighbour_of == NEW
    assert len(message.items) == 20
    assert len({*items_of(message, 20)}) == 20
    assert NEW not in items_of(message, 20)


def test_a_seen_new_item_is_left_out_unless_the_settings_say_otherwise(bundle: Bundle) -> None:
    near = bundle.ids[7]
    for exclude_seen in (True, False):
        shop = Shop(bundle, RecommendationSettings(exclude_seen=exclude_seen))
        ten_click_it(shop, near)
        assert (NEW in items_of(shop.click("ann", NEW, near))) is not exclude_seen


def test_a_disliked_new_item_is_in_no_list(bundle: Bundle) -> None:
    shop, near = Shop(bundle, RecommendationSettings(exclude_seen=False)), bundle.ids[7]
    ten_click_it(shop, near)
    shop.clock_ms += 60_000
    dislike = msgspec.json.encode({"user": "ann", "item": NEW, "ts": shop.clock_ms, "action": "dislike"})
    shop.log.producer().send(Outgoing("clicks", [b"ann"], [dislike]))
    assert NEW not in items_of(shop.click("ann", near), 20)


def test_diverse_lists_hold_new_items_too(bundle: Bundle) -> None:
    shop, near = Shop(bundle, RecommendationSettings(diversity=0.5)), bundle.ids[7]
    ten_click_it(shop, near)
    message = shop.click("ann", near)
    assert NEW in items_of(message)
    assert len({*items_of(message, 20)}) == 20


def test_a_new_item_that_is_popular_is_in_lists_where_popularity_is_a_part_of_scores(bundle: Bundle) -> None:
    unseen = replace(bundle, popularity=np.zeros_like(bundle.popularity))
    shop = Shop(with_parts(unseen, popularity=PopularityScore(weight=200.0, floor=0.001)))
    for number in range(20):
        shop.click(f"early-{number}", NEW)
    message = shop.click("ann", bundle.ids[7])
    assert items_of(message)[0] == NEW
    assert message is not None
    assert message.items[0].source == "popular"


def test_a_new_item_is_listed_as_often_as_it_is_clicked(bundle: Bundle) -> None:
    """By a share of clicks alone: with no neighbours, a few clicks list it for nobody and many for everybody."""
    for clicks, is_listed in ((3, False), (1_500, True)):
        shop = Shop(bundle)
        crowd(shop)
        for number in range(clicks):
            shop.click(f"early-{number % 150}", NEW)
        lists = [items_of(shop.click(f"late-{number}", bundle.ids[30 * number])) for number in range(20)]
        assert {NEW in listed for listed in lists} == {is_listed}, clicks


def test_a_release_without_the_sum_of_its_scores_lists_no_new_item(bundle: Bundle) -> None:
    shop = Shop(with_parts(bundle, log_partition=None))
    ten_click_it(shop, bundle.ids[7])
    assert NEW not in items_of(shop.click("ann", bundle.ids[7]), 20)


def test_a_worker_that_starts_counts_what_its_windows_hold(bundle: Bundle) -> None:
    shop, near = Shop(bundle), bundle.ids[7]
    ten_click_it(shop, near)
    successor = shop.successor()
    numbers = shop.catalogue.numbers([near, NEW])
    before, after = (each.processor._counts for each in (shop, successor))
    assert before.neighbours is not None
    assert after.neighbours is not None
    expected, restored = before.neighbours.of(numbers), after.neighbours.of(numbers)
    np.testing.assert_array_equal(restored.items, expected.items)
    np.testing.assert_allclose(restored.weights, expected.weights, rtol=1e-4)
    np.testing.assert_allclose(after.popularity.shares(numbers), before.popularity.shares(numbers), rtol=1e-4)
    assert items_of(successor.click("ann", near)) == items_of(shop.click("ann", near))


def test_a_click_that_comes_before_its_window_was_counted_counts_once(bundle: Bundle) -> None:
    shop, near = Shop(bundle), bundle.ids[7]
    ten_click_it(shop, near)
    successor = Shop(bundle, clock_ms=shop.clock_ms)
    successor.catalogue_of(shop)
    successor.processor.windows.load(shop.processor.windows.pack(0), 0)
    successor.processor.restored([0])
    for each in (shop, successor):
        each.click("early-3", bundle.ids[9])
    while successor.processor.count_restored():
        pass
    numbers = shop.catalogue.numbers([near, NEW, bundle.ids[9]])
    first, second = (each.processor._counts.neighbours for each in (shop, successor))
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first.of(numbers).weights.sum(), second.of(numbers).weights.sum(), rtol=1e-4)
    alone, restored = (each.processor._counts.popularity.shares(numbers) for each in (shop, successor))
    np.testing.assert_allclose(restored, alone, rtol=1e-4)


def test_a_partition_that_comes_back_is_counted_from_where_it_was_given_up(bundle: Bundle) -> None:
    shop, near = Shop(bundle), bundle.ids[7]
    ten_click_it(shop, near)
    numbers = shop.catalogue.numbers([near, NEW])
    counts = shop.processor._counts
    assert counts.neighbours is not None
    weights, shares = counts.neighbours.of(numbers).weights, counts.popularity.shares(numbers)
    windows = shop.processor.windows.pack(0)
    shop.processor.hand_over([0])
    shop.processor.windows.drop(0)
    shop.processor.windows.load(windows, 0)
    shop.processor.restored([0])
    while shop.processor.count_restored():
        pass
    np.testing.assert_array_equal(counts.neighbours.of(numbers).weights, weights)
    np.testing.assert_array_equal(counts.popularity.shares(numbers), shares)


def test_what_one_user_alone_clicked_together_is_forgotten_with_the_user(bundle: Bundle) -> None:
    shop, near = Shop(bundle), bundle.ids[7]
    shop.click("ann", near, NEW)
    number = shop.catalogue.numbers([near])
    counts = shop.processor._counts.neighbours
    assert counts is not None
    assert len(counts.of(number).items) == 1
    shop.click("ann", None)
    assert len(counts.of(number).items) == 0
    assert NEW not in items_of(shop.click("bob", near), 20)


def test_the_next_release_knows_the_item_and_its_pairs_count_no_more(bundle: Bundle) -> None:
    shop, near = Shop(bundle), bundle.ids[7]
    ten_click_it(shop, near)
    renamed = replace(bundle, ids=[NEW if item == bundle.ids[900] else item for item in bundle.ids])
    shop.processor.swap(shop.warm(renamed))
    message = shop.click("ann", near)
    assert all(item.source != "neighbour" for item in (message.items if message else ()))


def test_a_server_that_follows_windows_counts_as_a_worker_does(bundle: Bundle) -> None:
    shop, near = Shop(bundle), bundle.ids[7]
    ten_click_it(shop, near)
    before = shop.processor.windows.pack(0)
    shop.click("late", near, NEW, bundle.ids[9])
    shop.click("early-2", bundle.ids[9])
    chosen = Settings(windows=WindowSettings(max_users=200))
    actions, seen = Actions(chosen.clicks), list[NewEvents]()
    windows = FollowedWindows(chosen, shop.catalogue, actions, seen.append)
    counts = ClickCounts(chosen, actions.weights, windows.store)
    windows.load(before, 0)
    counts.add(seen[0].windows, seen[0].is_new)  # read before there is a release: counted from the store once there is
    begin_counts(counts, shop.warm(bundle))
    assert counts.waits
    while counts.waits:
        counts.step()
    windows.load(shop.processor.windows.pack(0), 0)
    counts.add(seen[1].windows, seen[1].is_new)
    numbers = shop.catalogue.numbers([near, NEW, bundle.ids[9]])
    expected, followed = shop.processor._counts, counts
    assert expected.neighbours is not None
    assert followed.neighbours is not None
    np.testing.assert_allclose(
        np.sort(followed.neighbours.of(numbers).weights), np.sort(expected.neighbours.of(numbers).weights), rtol=1e-4
    )
    np.testing.assert_allclose(followed.popularity.shares(numbers), expected.popularity.shares(numbers), rtol=1e-4)
