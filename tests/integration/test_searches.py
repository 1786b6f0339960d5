"""From recorded searches to lists that follow what is searched for: training, release, and a worker on the log.

In this shop users look for one kind of thing at a time, and change their minds: what they clicked before does not say
what they will click after their next search, its words do.
"""

import json
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="a release is trained for this test: pip install 'headrace[train]'")

import torch

from engine.catalogue import searches
from engine.catalogue.content import Item
from engine.catalogue.labels import ItemLabels
from engine.eventlog.base import Outgoing
from engine.eventlog.memory.log import MemoryLog
from engine.ingest import dead_letters
from engine.messages.recommendation import Recommendation
from engine.metrics import Metrics, ServeMetrics
from engine.releases import bundles
from engine.releases.bundles import NewRelease
from engine.settings.sections import (
    ClickSettings,
    IndexSettings,
    ItemSettings,
    RecommendationSettings,
    ReleaseSettings,
    Settings,
    SnapshotSettings,
    WindowSettings,
    WorkerSettings,
)
from engine.view.http_messages import SessionEvent
from engine.view.requests import ListOptions, ListQuery, Responder
from engine.view.standby import Standby
from engine.windows import users
from engine.worker import loop
from models.data import dataset, item_content
from models.evaluation.evaluate import evaluate
from models.publishing import export
from models.settings import EncoderSettings, TrainSettings
from models.training.fit import train
from tests.integration import equality

KINDS = ("shoes", "novel", "teapot", "guitar", "lamp", "tent")
"""The first ones are the popular ones."""
STYLES = ("red", "green", "small", "large", "cheap", "fancy", "old", "modern")
LIST_LENGTH = 20
ONE_BY_ONE = WorkerSettings(max_batch_clicks=1)
START_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: 144 items, 24 of each kind, and users who search for a kind and click two things of it."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("shop")
    items = [f"{kind}-{style}-{n},{style} {kind} no. {n}" for kind in KINDS for style in STYLES for n in range(3)]
    (folder / "items.csv").write_text("\n".join(["item,title", *items]) + "\n")
    rows = []
    for user in range(80):
        for turn in range(8):
            kind, style = KINDS[min(rng.geometric(0.35) - 1, len(KINDS) - 1)], rng.choice(STYLES)
            second = 1000 * turn + user
            asked = rng.choice([kind, f"{style} {kind}", f"buy {kind.upper()}", f"{kind}: {style}!"])
            rows.append((second, f"u{user}", "", asked if turn or user % 2 else "something"))
            rows += [
                (second + step, f"u{user}", f"{kind}-{rng.choice(STYLES)}-{rng.integers(3)}", "") for step in (60, 120)
            ]
    lines = [f"{user},{item},{second},{words}" for second, user, item, words in sorted(rows)]
    (folder / "interactions.csv").write_text("\n".join(["user,item,ts,query", *lines]) + "\n")
    return folder


def kind_of(item: str) -> str:
    return item.split("-", maxsplit=1)[0]


@pytest.fixture(scope="module")
def labelled(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release with the kind of each item as its category, and the style as a tag."""
    read = bundles.read(bundle)
    items = {
        item: Item(id=item, bags={"category": [kind_of(item)], "tags": [item.split("-")[1], "new"][: 1 + row % 2]})
        for row, item in enumerate(read.ids)
    }
    release = NewRelease(
        model=read.manifest.model,
        version="labelled",
        created_ms=0,
        contract=read.manifest.contract,
        holdout=read.manifest.holdout,
        encoder_onnx=read.encoder_onnx,
        items_onnx=read.items_onnx,
        content_onnx=read.content_onnx,
        vectors=read.vectors,
        popularity=read.popularity,
        neighbours=read.neighbours,
        labels=ItemLabels.of(items, read.ids),
        ids=read.ids,
    )
    return bundles.write(release, tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def responder(labelled: Path) -> Responder:
    """Of a server that has the release."""
    metrics, log = ServeMetrics(), MemoryLog()
    settings = Settings(releases=ReleaseSettings(path=labelled), windows=WindowSettings(max_users=10, length=10))
    standby = Standby(settings, log, metrics)
    standby.start()
    return Responder(standby)


def test_a_session_of_an_anonymous_request_may_search(responder: Responder) -> None:
    clicks = [SessionEvent("shoes-red-0"), SessionEvent("shoes-red-1")]
    sessions = [clicks, [*clicks, SessionEvent(search="a TENT, please")], [*clicks, SessionEvent(search="?!")]]
    options = ListOptions(count=10)
    clicked, searched, wordless = (
        each.recommendation for each in responder.lists([ListQuery(session=each, options=options) for each in sessions])
    )
    kinds = [Counter(kind_of(listed.item) for listed in each.items) for each in (clicked, searched)]
    assert kinds[0]["tent"] < 5 <= kinds[1]["tent"]
    assert [listed.item for listed in wordless.items] == [listed.item for listed in clicked.items]
    weighed = {(reason.item, reason.kind) for reasons in searched.interests for reason in reasons}
    assert ("a tent please", "search") in weighed


def test_items_of_a_kind_are_left_out_where_the_request_says_so(responder: Responder) -> None:
    session = [SessionEvent("shoes-red-0"), SessionEvent("shoes-red-1")]

    def listed(where: tuple[tuple[str, str], ...], count: int = 20) -> list[str]:
        query = ListQuery(session=session, options=ListOptions(count=count, exclude_where=where))
        other = ListQuery(session=session, options=ListOptions(count=count))
        lists = [each.recommendation.items for each in responder.lists([other, query])]
        assert [entry.item for entry in lists[0]] == plain[:count]
        return [entry.item for entry in lists[1]]

    query = ListQuery(session=session, options=ListOptions(count=200))
    plain = [entry.item for entry in responder.lists([query])[0].recommendation.items]
    assert len(plain) > 120
    assert listed((("category", "shoes"),)) == [item for item in plain if kind_of(item) != "shoes"][:20]
    no_red_shoes = listed((("category", "shoes"), ("tags", "red")), 100)
    assert no_red_shoes == [item for item in plain if kind_of(item) != "shoes" and "-red-" not in item][:100]
    assert listed((("category", "boats"), ("colour", "red"))) == plain[:20]
    everything = tuple(("category", kind) for kind in KINDS)
    assert listed(everything) == []


def test_a_release_has_the_labels_of_its_items(labelled: Path, bundle: Path) -> None:
    assert bundles.read(bundle).labels is None
    read = bundles.read(labelled)
    assert read.labels is not None
    assert read.labels.fields == {"category", "tags"}
    for label in (("category", "lamp"), ("tags", "old")):
        items = {read.ids[row] for row in read.labels.rows([label])}
        assert items == {item for item in read.ids if label[1] in item.split("-")}
    assert not len(read.labels.rows([("category", "boat")]))


@pytest.fixture(scope="module")
def bundle(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    sizes = EncoderSettings(dimensions=16, interests=2, heads=2, hidden=16, window_length=10, id_dropout=0.3)
    chosen = TrainSettings(encoder=sizes, holdout="last", epochs=4, batch_sequences=16, learning_rate=5e-3)
    trained = train(dataset.read(shop), chosen, items=item_content.read(shop, ItemSettings()))
    return export.write(trained, chosen, ("two-hop", "searched"), 0, tmp_path_factory.mktemp("releases"))


class Site:
    """A log and the worker on it, which comes and goes."""

    def __init__(self, bundle: Path, **sections: object) -> None:
        recommendations = RecommendationSettings(count=LIST_LENGTH)
        self.chosen: Settings = equality.settings(bundle, recommendations=recommendations, **sections)
        self.log = MemoryLog()
        self.log.ensure_topics(equality.topics(self.chosen))
        self._clock_ms = count(START_MS, 1000)

    def send(self, user: str, **fields: object) -> None:
        value = json.dumps({"user": user, "ts": next(self._clock_ms), **fields}).encode()
        self.log.producer().send(Outgoing("clicks", [user.encode()], [value], partitions=[1]))

    def serve(self, clicks: int) -> dict[str, Recommendation]:
        """Process so many clicks; everyone's newest list."""
        equality.serve(self.log, self.chosen, clicks)
        return {one.user: one for one in equality.outcome(self.log, self.chosen).lists}

    def windows(self) -> dict[str, list[str]]:
        found = equality.outcome(self.log, self.chosen).windows
        return {user: [item for item, _, _ in events] for user, events in found.items()}


def kinds(listed: Recommendation) -> Counter[str]:
    return Counter(place.item.split("-")[0] for place in listed.items)


def test_a_list_follows_the_words_of_a_search(bundle: Path, shop: Path) -> None:
    site = Site(bundle)
    first, second = "Where to buy a large TENT", "Good lamp for reading"
    recorded = {searches.words_of(search) for search in dataset.read(shop).search_ids}
    assert not {first.lower(), second.lower()} & recorded  # never searched for in these words as a whole
    for user, words in (("ann", [first]), ("bob", [first, second]), ("eve", ["xyzzy"])):
        for query in words:
            site.send(user, query=query)
    lists = site.serve(4)
    tents, lamps, popular = (kinds(lists[user]) for user in ("ann", "bob", "eve"))
    assert {place.source for place in lists["eve"].items} == {"popular"}
    assert popular["tent"] + popular["lamp"] <= LIST_LENGTH / 5
    assert tents["tent"] >= 0.8 * LIST_LENGTH
    assert lamps["lamp"] >= popular["lamp"] + LIST_LENGTH / 5
    assert lamps["tent"] < tents["tent"]
    assert {place.item for each in lists.values() for place in each.items} <= set(bundles.read(bundle).ids)
    named = {(reason.kind, reason.item) for interest in lists["bob"].interests for reason in interest}
    assert named == {("search", "where to buy a large tent"), ("search", "good lamp for reading")}


def test_a_search_after_clicks_turns_the_list_at_once(bundle: Path) -> None:
    """Also where HNSW searches, and where the click and the search come in one batch."""
    for kind in ("exact", "hnsw"):
        site = Site(bundle, index=IndexSettings(kind=kind))
        site.send("ann", item="guitar-red-0")
        site.send("bob", item="guitar-red-0")
        site.send("bob", query="teapot")
        lists = site.serve(3)
        assert kinds(lists["ann"])["teapot"] <= 2
        assert kinds(lists["bob"])["teapot"] >= LIST_LENGTH / 3


def test_a_search_outlives_the_worker_and_is_forgotten_with_its_user(bundle: Path, tmp_path: Path) -> None:
    """The second worker has the windows from a snapshot, the third from the changelog."""
    site = Site(bundle, snapshots=SnapshotSettings(folder=tmp_path))
    site.send("ann", query="Red  TENT!")
    site.send("bob", query="old lamp")
    site.serve(2)
    assert site.windows() == {"ann": [searches.id_of("red tent")], "bob": [searches.id_of("old lamp")]}
    for item in ("tent-old-0", "tent-old-1"):
        site.send("ann", item=item)
        found = site.serve(1)["ann"]
        assert "red tent" in {reason.item for interest in found.interests for reason in interest}
        for path in tmp_path.iterdir():
            path.unlink()
    site.log.producer().send(Outgoing("clicks", [b"ann"], [None], partitions=[1]))
    site.send("bob", query="OLD lamp")
    site.serve(1)
    assert site.windows() == {"bob": [searches.id_of("old lamp")] * 2}


def test_words_that_no_window_holds_are_dropped_and_nothing_else_changes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three users with two events each, one of them always away: swept or not, lists and windows are the same."""

    def run() -> tuple[dict[str, list[str]], list[tuple[str, Any, Any]], float | None]:
        site, metrics = Site(bundle, windows=WindowSettings(max_users=2, length=2), worker=ONE_BY_ONE), Metrics()
        for number in range(40):
            user, kind = f"u{number % 3}", KINDS[number % 5]
            what = {"item": f"{kind}-old-1"} if number % 4 == 3 else {"query": f"{kind} for {number // 2}"}
            site.send(user, **what)
        equality.serve(site.log, site.chosen, 40, metrics)
        lists = [(one.user, one.items, one.interests) for one in equality.outcome(site.log, site.chosen).lists]
        return site.windows(), lists, metrics.registry.get_sample_value("headrace_held_searches")

    monkeypatch.setattr(loop, "_GAUGES_EVERY_S", 0.0)
    windows, lists, held = run()
    monkeypatch.setattr(users, "_FIRST_SEARCH_SWEEP", 3)
    swept_windows, swept_lists, swept_held = run()
    assert (swept_windows, swept_lists) == (windows, lists)
    assert held is not None
    assert held >= 15
    assert swept_held is not None
    assert swept_held <= 8  # twice those of two users, and some more until the next look


def test_items_that_no_window_holds_are_dropped_and_nothing_else_changes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second click is on an item that never comes again, as where a session id is mapped to the item."""

    def run() -> tuple[dict[str, list[str]], list[tuple[str, Any, Any]], float, float]:
        site, metrics = Site(bundle, windows=WindowSettings(max_users=2, length=3), worker=ONE_BY_ONE), Metrics()
        for number in range(120):
            item = f"{KINDS[number % 5]}-old-1" if number % 2 else f"never again {number}"
            site.send(f"u{number % 3}", item=item)
        equality.serve(site.log, site.chosen, 120, metrics)
        lists = [(one.user, one.items, one.interests) for one in equality.outcome(site.log, site.chosen).lists]
        sample = metrics.registry.get_sample_value
        return site.windows(), lists, sample("headrace_catalogue_items") or 0, sample("headrace_freed_items_total") or 0

    monkeypatch.setattr(loop, "_GAUGES_EVERY_S", 0.0)
    windows, lists, held, freed = run()
    of_release = len(bundles.read(bundle).ids)
    assert (held, freed) == (of_release + 60, 0)
    monkeypatch.setattr(users, "_FIRST_ITEM_SWEEP", of_release + 5)
    monkeypatch.setattr(users, "_GROWTH", 1)
    swept_windows, swept_lists, swept_held, swept_freed = run()
    assert (swept_windows, swept_lists) == (windows, lists)
    assert swept_held <= of_release + 7  # those of two users, and one more until the next look
    assert swept_freed >= 60 - 7  # more, as evicted windows that are reloaded bring theirs back


def test_a_search_that_was_refused_can_be_sent_again(bundle: Path) -> None:
    strict = Site(bundle, clicks=ClickSettings(max_id_bytes=8), worker=WorkerSettings(max_batch_clicks=2))
    strict.send("ann", query="red tent for two")
    strict.send("ann", item="tent-old-1"[:8])
    strict.serve(1)
    (letter,) = dead_letters.read(strict.log, "clicks.dead", dead_letters.LetterFilter())
    assert letter.reason == "long_search"
    mended = strict.chosen.model_copy(update={"clicks": ClickSettings()})
    dead_letters.replay(strict.log, [letter])
    equality.serve(strict.log, mended, 1)
    assert strict.windows() == {"ann": [searches.id_of("red tent for two"), "tent-old"]}


def test_a_search_is_no_next_click_and_makes_nothing_popular(bundle: Path) -> None:
    site, metrics = Site(bundle), Metrics()
    for user in ("ann", "ann", "bob", "bob"):
        site.send(user, query="tent")
    equality.serve(site.log, site.chosen, 4, metrics)
    site.send("bob", item="tent-old-1")
    site.send("eve", query="xyzzy")
    lists = site.serve(2)
    sample = metrics.registry.get_sample_value
    assert not [one for family in metrics.next_clicks.collect() for one in family.samples]
    assert sample("headrace_searches_total") == sample("headrace_clicks_total") == 4
    assert all(place.item in set(bundles.read(bundle).ids) for place in lists["eve"].items)


def test_evaluation_asks_for_clicks_from_windows_with_searches(bundle: Path, shop: Path) -> None:
    report = evaluate(bundles.read(bundle), dataset.read(shop), Settings(), lambda *_: None)
    assert report["targets"] == 80
    assert report["unknown_targets"] <= 8
    assert report["hr20"] > 2 * report["baselines"]["popularity_7d"]["hr20"]
