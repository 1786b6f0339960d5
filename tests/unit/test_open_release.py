"""Lists from Python: those of the pipeline and of a worker for the same clicks, and every refusal by its text."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace
from engine.arrays import NO_ITEM, Windows
from engine.catalogue.ids import Catalogue
from engine.metrics import Metrics
from engine.pipeline import Recommender
from engine.ranking.popularity import Popularity
from engine.releases import bundles, serving
from engine.settings.sections import IndexSettings, RecommendationSettings, Settings
from engine.worker.loop import Worker
from producers.bench.throughput import Load, _enlarged
from producers.demo.bundled import DEMO_RELEASE
from tests.waiting import LIMIT_S

VIEW = 1
MINUTE_MS = 60_000
IDS = bundles.read(DEMO_RELEASE).ids
HISTORY = [f"item-{number:05d}" for number in (42, 100, 43, 7)]


@pytest.fixture(scope="module")
def release() -> headrace.Release:
    return headrace.open_release(DEMO_RELEASE)


def items(recommendation: headrace.Recommendation) -> list[str]:
    return [place.item for place in recommendation.items]


class Pipeline:
    """The pipeline on windows made by hand, with nothing of the door between."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.live = serving.warm(bundles.read(DEMO_RELEASE), self.catalogue, IndexSettings(), threads=1)
        self.popularity = Popularity()
        self.popularity.seed(self.live.numbers, self.live.popularity)
        self.weights = np.zeros(256, np.float32)
        self.weights[VIEW] = 1.0

    def recommend(self, history: list[str], **options: Any) -> list[tuple[str, float]]:
        length = 100
        window = Windows(
            np.full((1, length), NO_ITEM, np.int32), np.zeros((1, length), np.int64), np.zeros((1, length), np.uint8)
        )
        if history:
            window.items[0, -len(history) :] = self.catalogue.numbers(history)
            window.times_ms[0, -len(history) :] = MINUTE_MS * np.arange(len(history))
            window.actions[0, -len(history) :] = VIEW
        lists = Recommender(RecommendationSettings(**options), self.weights, self.popularity).recommend(
            window, self.live
        )
        ids = self.catalogue.ids(lists.items[0].tolist())
        return list(zip(ids, lists.scores[0].tolist(), strict=True))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline()


@given(
    history=st.lists(st.sampled_from(IDS), max_size=100),
    count=st.integers(1, 30),
    diversity=st.sampled_from([0.0, 0.4]),
    exclude_seen=st.booleans(),
)
@settings(max_examples=40)
def test_lists_are_those_of_the_pipeline(
    release: headrace.Release,
    pipeline: Pipeline,
    history: list[str],
    count: int,
    diversity: float,
    exclude_seen: bool,
) -> None:
    recommendation = release.recommend(history, count=count, diversity=diversity, exclude_seen=exclude_seen)
    expected = pipeline.recommend(history, count=count, diversity=diversity, exclude_seen=exclude_seen)
    assert items(recommendation) == [item for item, _ in expected]
    assert [place.score for place in recommendation.items] == pytest.approx([score for _, score in expected], abs=1e-3)


@pytest.fixture
def worker_lists() -> Iterator[Callable[[list[dict[str, object]], Settings], headrace.Recommendation]]:
    """The last list that a worker sends after these clicks of one user."""
    stop = threading.Event()
    threads = []

    def run(clicks: list[dict[str, object]], shop_settings: Settings) -> headrace.Recommendation:
        log = headrace.MemoryLog()
        log.ensure_topics([headrace.TopicSpec(name) for name in ("clicks", "recommendations", "clicks.dead")])
        log.ensure_topics([headrace.TopicSpec("releases")])
        values: list[bytes | None] = [json.dumps(click).encode() for click in clicks]
        log.producer().send(headrace.Outgoing("clicks", [b"ann"] * len(values), values))
        reader = log.reader(["recommendations"])
        thread = threading.Thread(target=Worker(shop_settings, log, Metrics()).run, args=[stop])
        threads.append(thread)
        thread.start()
        newest_ms = max(int(str(click["ts"])) for click in clicks)
        deadline_s = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline_s:
            for records in reader.poll(0.05, 100):
                recommendation = headrace.decode_recommendation(records.values[-1] or b"")
                if recommendation.event_ms == newest_ms:
                    return recommendation
        raise AssertionError(f"no list within {LIMIT_S} s")

    yield run
    stop.set()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_a_list_is_the_one_that_a_worker_sends_after_the_same_clicks(
    worker_lists: Callable[[list[dict[str, object]], Settings], headrace.Recommendation],
) -> None:
    names = ["view", "buy", "dislike", "view"]
    times_ms = [1_700_000_000_000, 1_700_000_005_000, 1_700_000_009_000, 1_700_000_007_000]
    shop_settings = Settings.model_validate(
        {
            "releases": {"path": str(DEMO_RELEASE), "poll_interval_s": 0.02},
            "windows": {"max_users": 10, "length": 50},
            "recommendations": {"count": 15},
            "worker": {"poll_timeout_s": 0.02},
        }
    )
    clicks: list[dict[str, object]] = [
        {"user": "ann", "item": item, "ts": time_ms, "action": name}
        for item, time_ms, name in zip(HISTORY, times_ms, names, strict=True)
    ]
    sent = worker_lists(clicks, shop_settings)
    release = headrace.open_release(DEMO_RELEASE, shop_settings)
    own = release.recommend_many({"ann": HISTORY}, times_ms={"ann": times_ms}, actions={"ann": names})["ann"]
    assert len(own.items) == 15
    assert own == headrace.Recommendation(
        id="",
        user="ann",
        release=sent.release,
        event_ms=max(times_ms),
        computed_ms=own.computed_ms,
        items=sent.items,
        interests=sent.interests,
    )


def test_many_users_get_what_each_gets_alone(release: headrace.Release) -> None:
    histories = {f"u{user}": IDS[user : user + user % 7] for user in range(300)}
    together = release.recommend_many(histories, count=5)
    assert [*together] == [*histories]
    assert all(recommendation.user == user for user, recommendation in together.items())
    for user in ("u0", "u1", "u255", "u256", "u299"):
        assert items(together[user]) == items(release.recommend(histories[user], count=5))
    assert release.recommend_many({}) == {}


def test_threads_share_a_release(release: headrace.Release) -> None:
    histories = [IDS[start : start + 3] for start in range(40)]
    counts = [5 + start % 20 for start in range(40)]
    alone = [items(release.recommend(history, count=count)) for history, count in zip(histories, counts, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(release.recommend, history, count=count)
            for history, count in zip(histories, counts, strict=True)
        ]
    assert [items(future.result()) for future in futures] == alone


def test_a_list_says_from_what_it_was_made(release: headrace.Release) -> None:
    before_ms = time.time_ns() // 1_000_000
    recommendation = release.recommend(HISTORY)
    assert (recommendation.id, recommendation.user, recommendation.release) == ("", "", "two-hop-demo")
    assert before_ms <= recommendation.event_ms == recommendation.computed_ms
    reasons = {reason.item for interest in recommendation.interests for reason in interest}
    assert reasons
    assert reasons <= set(HISTORY)
    assert {place.source for place in recommendation.items} == {"interest"}
    assert all(recommendation.interests[place.interest] for place in recommendation.items)


@pytest.mark.parametrize("history", [[], ["nowhere"], ["nowhere", "item-x", ""]])
def test_nothing_known_gives_what_is_popular(release: headrace.Release, history: list[str]) -> None:
    recommendation = release.recommend(history, count=4)
    bundle = bundles.read(DEMO_RELEASE)
    assert items(recommendation) == [IDS[row] for row in np.argsort(-bundle.popularity, kind="stable")[:4]]
    assert {place.source for place in recommendation.items} == {"popular"}
    assert (recommendation.interests, recommendation.event_ms) == ([], 0)


def test_unknown_items_are_named_and_change_nothing(release: headrace.Release) -> None:
    times_ms = [MINUTE_MS * index for index in range(5)]
    mixed = [*HISTORY[:2], "nowhere", *HISTORY[2:]]
    assert release.unknown(mixed) == ["nowhere"]
    known = release.recommend(HISTORY, times_ms=[*times_ms[:2], *times_ms[3:]])
    assert release.recommend(mixed, times_ms=times_ms).items == known.items


def test_clicks_are_ordered_by_time(release: headrace.Release) -> None:
    times_ms = [MINUTE_MS * index for index in range(len(HISTORY))]
    forward = release.recommend(HISTORY, times_ms=times_ms)
    backward = release.recommend(HISTORY[::-1], times_ms=times_ms[::-1])
    later = release.recommend(HISTORY, times_ms=[time_ms + 10**12 for time_ms in times_ms])
    assert forward.items == backward.items == later.items == release.recommend(HISTORY).items
    assert release.recommend(HISTORY[::-1], times_ms=times_ms).items != forward.items


def test_actions_weigh_mark_and_push_away(release: headrace.Release) -> None:
    plain = release.recommend(HISTORY)
    assert release.recommend(HISTORY, actions=["view"] * 4).items == plain.items
    assert release.recommend(HISTORY, actions=["buy", "view", "view", "view"]).items != plain.items
    first = items(plain)[0]
    disliked = release.recommend([first, *HISTORY], actions=["dislike", *["view"] * 4], exclude_seen=False)
    assert first not in items(disliked)


@given(st.sets(st.sampled_from(IDS), max_size=40), st.integers(0, 10))
@settings(max_examples=30)
def test_excluded_items_are_never_listed(release: headrace.Release, excluded: set[str], clicks: int) -> None:
    top = items(release.recommend(HISTORY[:clicks]))
    recommendation = release.recommend(HISTORY[:clicks], exclude=[*excluded, *top[:5], "nowhere"])
    assert len(recommendation.items) == 20
    assert not {*items(recommendation)} & {*excluded, *top[:5]}


def test_a_list_ends_where_nothing_else_may_be_listed(release: headrace.Release) -> None:
    left = {*IDS[1000:1005]}
    recommendation = release.recommend(["item-00042"], exclude=[item for item in IDS if item not in left])
    assert {*items(recommendation)} == left - {"item-00042"}


def test_more_exclusions_than_a_search_goes_deep(tmp_path: Path) -> None:
    """K searches as deep as 8,000 exclusions need have more results than the packed words of the merge can number."""
    folder = _enlarged(bundles.read(DEMO_RELEASE), Load(items=20_000, users=1, batch=1, batches=1), tmp_path)
    release = headrace.open_release(folder, Settings(index=IndexSettings(kind="exact")))
    history = release.item_ids[100:101]
    excluded = [item for item, _ in release.similar(history[0], count=8_000)]
    listed = items(release.recommend(history, exclude=excluded))
    assert len({*listed}) == 20
    assert not {*listed} & {*excluded, *history}


def test_items_before_the_window_are_seen_too(release: headrace.Release) -> None:
    top = items(release.recommend(IDS[:100], count=30))
    history = [*top, *IDS[:100]]
    assert not {*items(release.recommend(history))} & {*history}
    assert {*items(release.recommend(history, exclude_seen=False))} & {*history}


def test_settings_are_those_of_a_worker() -> None:
    settings = Settings.model_validate(
        {
            "windows": {"length": 2},
            "recommendations": {"count": 3, "exclude_seen": False},
            "index": {"kind": "hnsw"},
            "clicks": {"actions": {"read": 1.0}, "default_action": "read", "search_action": "read"},
        }
    )
    release = headrace.open_release(str(DEMO_RELEASE), settings)
    assert len(release.recommend(HISTORY).items) == 3
    assert release.recommend(HISTORY, actions=["read"] * 4).items == release.recommend(HISTORY[2:]).items
    with pytest.raises(headrace.RequestError, match="found action 'view' at index 0, expected one of read; rename"):
        release.recommend(HISTORY[:1], actions=["view"])


def test_similar_items(release: headrace.Release) -> None:
    bundle = bundles.read(DEMO_RELEASE)
    vectors = {item: vector.astype(float) for item, vector in zip(IDS, bundle.vectors, strict=True)}
    query = vectors["item-00042"]
    cosines = {
        item: float(vector @ query / np.sqrt((vector @ vector) * (query @ query))) for item, vector in vectors.items()
    }
    similar = release.similar("item-00042", count=5)
    assert [item for item, _ in similar] == sorted(cosines, key=lambda item: -cosines[item])[1:6]
    assert [cosine for _, cosine in similar] == pytest.approx([cosines[item] for item, _ in similar], abs=1e-4)
    assert len(release.similar("item-00042", count=10**6)) == len(IDS) - 1
    assert len(release.similar("item-00042")) == 10


def test_it_shows_itself(release: headrace.Release) -> None:
    assert repr(release) == "<headrace.Release two-hop-demo, 1998 items>"
    assert release.item_ids == IDS


Call = Callable[[headrace.Release], object]
REFUSALS: list[tuple[Call, str]] = [
    (lambda release: release.recommend("x-9"), "history: found the text 'x-9', expected a list of ids; write ['x-9']"),
    (
        lambda release: release.recommend([7]),  # type: ignore[list-item]
        "history: found 7 at index 0, expected an id as text; write '7'",
    ),
    (
        lambda release: release.recommend(HISTORY, exclude="x-9"),
        "exclude: found the text 'x-9', expected a list of ids; write ['x-9']",
    ),
    (
        lambda release: release.recommend(HISTORY, times_ms=[1, 2]),
        "history: found 2 times_ms for 4 items, expected one for each, in the same order; leave times_ms out if they"
        " are not known",
    ),
    (
        lambda release: release.recommend_many({"ann": HISTORY}, actions={"ann": []}),
        "history of user 'ann': found 0 actions for 4 items, expected one for each, in the same order; leave actions"
        " out if they are not known",
    ),
    (
        lambda release: release.recommend(["x-9"], times_ms=[1.5]),  # type: ignore[list-item]
        "history: found time 1.5 at index 0, expected Unix milliseconds as a whole number from 0 to 4398046511103;"
        " multiply seconds by 1000",
    ),
    (
        lambda release: release.recommend(["x-9"], times_ms=[-1]),
        "history: found time -1 at index 0, expected Unix milliseconds as a whole number from 0 to 4398046511103;"
        " multiply seconds by 1000",
    ),
    (
        lambda release: release.recommend(["x-9", "x-9"], actions=["view", "vew"]),
        "history: found action 'vew' at index 1, expected one of view, pv, search, like, fav, cart, buy, dislike,"
        " return; rename it, or give it a weight in the setting clicks.actions",
    ),
    (
        lambda release: release.recommend(HISTORY, count=0),
        "count: found 0, expected greater than or equal to 1; leave it out for 20, as in the settings",
    ),
    (
        lambda release: release.recommend(HISTORY, count=201),
        "count: found 201, expected less than or equal to 200; leave it out for 20, as in the settings",
    ),
    (
        lambda release: release.recommend(HISTORY, diversity=1.5),
        "diversity: found 1.5, expected less than or equal to 1; leave it out for 0.0, as in the settings",
    ),
    (
        lambda release: release.recommend_many({"ann": []}, times_ms={"bob": []}),
        "times_ms: found user 'ann' in histories alone, expected the same users in both; add or remove this one, or"
        " leave times_ms out",
    ),
    (
        lambda release: release.recommend_many({"ann": []}, actions={"ann": [], "bob": []}),
        "actions: found user 'bob' in actions alone, expected the same users in both; add or remove this one, or"
        " leave actions out",
    ),
    (
        lambda release: release.recommend_many({3: []}),  # type: ignore[dict-item]
        "users: found 3 at index 0, expected an id as text; write '3'",
    ),
    (
        lambda release: release.similar("x-9"),
        "item: found 'x-9', expected one of the 1998 items of release two-hop-demo; they are Release.item_ids",
    ),
    (
        lambda release: release.similar("item-00042", count=0),
        "count: found 0, expected 1 or more; leave it out for 10",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSALS)
def test_a_request_that_cannot_be_served_is_refused(release: headrace.Release, call: Call, message: str) -> None:
    with pytest.raises(headrace.RequestError) as refusal:
        call(release)
    assert str(refusal.value) == message


def test_a_folder_that_is_no_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(headrace.DamagedReleaseError) as refusal:
        headrace.open_release(tmp_path)
    assert str(refusal.value) == (
        f"release {tmp_path}: release.json cannot be read (No such file or directory); expected the folder of a"
        " release, RELEASES/MODEL-VERSION, as `headrace train` writes it: name another, or copy the bundle again"
    )


@pytest.mark.parametrize("value", [b"", b"rubbish", b"{}", b"\xff\xfe", b'{"id":"\xff"}', b"[" * 100_000])
def test_what_is_no_list_is_refused(value: bytes) -> None:
    with pytest.raises(headrace.MessageError) as refusal:
        headrace.decode_recommendation(value)
    assert str(refusal.value).startswith(f"found a message that begins with {value[:40]!r}, expected a list")
    assert str(refusal.value).endswith("check which topic it came from")


def test_settings_come_from_a_file_under_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headrace.toml").write_text("[recommendations]\ncount = 7\n")
    monkeypatch.setenv("HEADRACE_RECOMMENDATIONS__DIVERSITY", "0.5")
    loaded = headrace.load_settings(str(tmp_path / "headrace.toml"))
    assert (loaded.recommendations.count, loaded.recommendations.diversity) == (7, 0.5)
    assert headrace.load_settings().recommendations.count == 20
    with pytest.raises(headrace.SettingsError, match="cannot be read"):
        headrace.load_settings(tmp_path / "none.toml")
