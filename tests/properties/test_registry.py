"""The rules of the registry: any order of records, replays, compaction, two sources, writers with different clocks."""

from collections.abc import Callable, Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ReleaseError
from engine.messages.announcement import Announcement, ReleasePin
from engine.releases.registry import MAX_AHEAD_MS, Change, Registry

MODEL = "two-hop"
VERSIONS = ["v1", "v2", "v3"]
STATES = ["candidate", "canary", "live", "retired", "unheard-of"]
HOUR_MS = 3_600_000


def announced(version: str, announced_ms: int, state: str = "live", model: str = MODEL) -> Announcement:
    return Announcement(
        model=model,
        version=version,
        state=state,
        bundle=f"/releases/{model}-{version}",
        manifest_checksum=version * 32,
        announced_ms=announced_ms,
    )


def pinned(version: str, pinned_ms: int) -> ReleasePin:
    return ReleasePin(model=MODEL, pinned_version=version, pinned_ms=pinned_ms)


def registry(*records: Change) -> Registry:
    return Registry(MODEL).with_changes(records)


def served(releases: Registry) -> list[str]:
    return [announcement.version for announcement in releases.live()]


times = st.integers(0, 20)
announcements = st.builds(announced, st.sampled_from(VERSIONS), times, st.sampled_from(STATES))
pins = st.builds(pinned, st.sampled_from([*VERSIONS, ""]), times)
records = st.lists(st.one_of(announcements, pins), max_size=12)


def compacted(log: Sequence[Change]) -> list[Change]:
    """What a compacted topic keeps: of each key the last record, in its place."""
    last = {record.key: index for index, record in enumerate(log)}
    return [log[index] for index in sorted(last.values())]


@given(records, st.randoms(use_true_random=False))
def test_records_of_different_keys_may_come_in_any_order(log: list[Change], random: Random) -> None:
    shuffled = compacted(log)
    random.shuffle(shuffled)
    assert registry(*shuffled) == registry(*compacted(log)) == registry(*log)


@given(records, st.data())
def test_a_replay_from_any_place_to_the_end_changes_nothing(log: list[Change], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(log)))
    assert registry(*log, *log[start:]) == registry(*log)


@given(records, st.data())
def test_compaction_at_any_moment_changes_nothing(log: list[Change], data: st.DataObject) -> None:
    clean = data.draw(st.integers(0, len(log)))
    assert registry(*compacted(log[:clean]), *log[clean:]) == registry(*log)


@given(records, records, records)
def test_sources_merge_in_any_order_and_as_often_as_one_likes(
    first: list[Change], second: list[Change], third: list[Change]
) -> None:
    a, b, c = registry(*first), registry(*second), registry(*third)
    assert a.merged(b) == b.merged(a)
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    assert a.merged(a) == a
    assert a.merged(b).merged(b) == a.merged(b)


@given(records)
def test_aliases_point_to_known_versions_in_the_right_state(log: list[Change]) -> None:
    releases = registry(*log)
    aliases = releases.aliases()
    assert set(aliases.values()) <= releases.versions.keys()
    assert aliases.get("live") != aliases.get("previous") or "live" not in aliases
    if releases.pinned is not None:
        assert aliases["live"] == releases.pinned
        assert "canary" not in aliases
    elif "live" in aliases:
        newest = max(known.announced_ms for known in releases.versions.values() if known.state == "live")
        assert releases.versions[aliases["live"]].announced_ms == newest
    for alias in ("canary", "candidate"):
        if alias in aliases:
            assert releases.versions[aliases[alias]].state == alias


Verb = tuple[str, str, int]
"""Its name, a version, and how far the writer's clock is off."""
verbs = st.lists(
    st.tuples(
        st.sampled_from(["announce", "promote", "rollback", "rollback to", "retire", "pin", "unpin"]),
        st.sampled_from(VERSIONS),
        st.integers(-HOUR_MS // 2, HOUR_MS // 2),
    ),
    max_size=12,
)


def act(releases: Registry, verb: Verb, now_ms: int) -> list[Change]:
    """The records of a verb by a writer whose clock is off; none where it is refused."""
    name, version, off_ms = verb
    now_ms += off_ms
    rules: dict[str, Callable[[], list[Change]]] = {
        "announce": lambda: [announced(version, now_ms)],
        "promote": lambda: releases.promote(version, now_ms),
        "rollback": lambda: releases.rollback(now_ms),
        "rollback to": lambda: releases.rollback(now_ms, version),
        "retire": lambda: releases.retire(version, now_ms),
        "pin": lambda: releases.pin(version, now_ms),
        "unpin": lambda: releases.unpin(now_ms),
    }
    try:
        return rules[name]()
    except ReleaseError:
        return []


@given(verbs)
def test_a_verb_has_its_effect_whatever_the_clocks_say(history: list[Verb]) -> None:
    """Writers one after the other, their clocks up to half an hour off."""
    releases, now_ms = Registry(MODEL), 10 * HOUR_MS
    for verb in history:
        now_ms += 1
        before = releases
        changes = act(releases, verb, now_ms)
        releases = releases.with_changes(changes)
        name, version, _ = verb
        if not changes:
            assert releases == before
        elif name in {"promote", "pin", "rollback to"}:
            assert served(releases)[0] == version
        elif name == "rollback":
            assert served(releases)[0] == served(before)[1]
            assert served(before)[0] not in served(releases)
        elif name == "unpin":
            assert releases.pinned is None
        elif name == "retire":
            assert version not in served(releases)
        if name.startswith(("rollback", "pin")) and changes:
            assert releases.pinned == served(releases)[0]


@given(verbs, verbs)
def test_nothing_is_served_over_a_pin_until_it_is_lifted(history: list[Verb], later: list[Verb]) -> None:
    releases, now_ms = Registry(MODEL), 10 * HOUR_MS
    for verb in [*history, ("announce", "v1", 0), ("pin", "v1", 0)]:
        releases = releases.with_changes(act(releases, verb, now_ms))
    for verb in later:
        if verb[0] in {"announce", "promote"}:
            releases = releases.with_changes(act(releases, verb, now_ms))
            assert served(releases)[0] == "v1"
            assert releases.canary() is None


@given(verbs, st.sampled_from(VERSIONS), st.data())
def test_a_writer_that_dies_half_way_has_gone_back_or_not(
    history: list[Verb], target: str, data: st.DataObject
) -> None:
    releases, now_ms = Registry(MODEL), 10 * HOUR_MS
    for verb in history:
        releases = releases.with_changes(act(releases, verb, now_ms))
    changes = act(releases, ("rollback to", target, 0), now_ms)
    written = data.draw(st.integers(0, len(changes)))
    assert served(releases.with_changes(changes[:written]))[:1] in ([target], served(releases)[:1])
    assert served(releases.with_changes(changes[:written]).with_changes(changes)) == served(
        releases.with_changes(changes)
    )


@given(st.permutations(["promote", "rollback"]))
def test_two_writers_who_read_the_same_registry_leave_one_that_can_be_followed(order: list[str]) -> None:
    before = registry(announced("v1", 1), announced("v2", 2), announced("v3", 3, "candidate"))
    both = {"promote": before.promote("v3", 10), "rollback": before.rollback(10)}
    after = before.with_changes(both[order[0]]).with_changes(both[order[1]])
    assert served(after)[0] == "v1"  # the pin of the rollback, in either order


def test_a_rollback_steps_back_pins_and_retires_what_was_newer() -> None:
    #   v1 live   v2 live   v3 live   v4 canary
    before = registry(announced("v1", 1), announced("v2", 2), announced("v3", 3), announced("v4", 4, "canary"))
    assert before.aliases() == {"live": "v3", "previous": "v2", "canary": "v4"}
    after = before.with_changes(before.rollback(100, reason="lists are empty"))
    assert after.aliases() == {"live": "v2", "previous": "v1"}
    assert {version: known.state for version, known in after.versions.items()} == {
        "v1": "live",
        "v2": "live",
        "v3": "retired",
        "v4": "retired",
    }
    assert after.versions["v3"].reason == "lists are empty"
    later = after.with_changes([announced("v5", 200)])
    assert later.aliases()["live"] == "v2"
    assert later.waiting() == announced("v5", 200)
    lifted = later.with_changes(later.unpin(150))
    assert lifted.aliases() == {"live": "v5", "previous": "v2"}
    again = later.with_changes(later.rollback(300))
    assert again.aliases() == {"live": "v1"}
    assert again.with_changes(again.unpin(400)).aliases() == {"live": "v1"}  # what waited was newer, and is retired


def test_a_clock_hours_ahead_is_not_followed_into_the_future() -> None:
    releases = registry(announced("v1", 1000), announced("v2", 10**15))
    assert releases.next_ms(2000) == 2000
    assert registry(announced("v1", 1000 + MAX_AHEAD_MS)).next_ms(1000) == 1001 + MAX_AHEAD_MS


@pytest.mark.parametrize("name", ["v1", "two-hop-v1", "live"])
def test_a_version_is_found_by_its_names(name: str) -> None:
    assert registry(announced("v1", 1)).resolve(name).version == "v1"


def test_records_from_before_there_were_reasons_and_pins_are_read() -> None:
    """Bytes as versions before the registry wrote them."""
    old = (
        b'{"schema":1,"model":"two-hop","version":"v1","state":"live","bundle":"/releases/two-hop-v1",'
        b'"manifest_checksum":"abc","announced_ms":1000,"figures":{"hr":0.5}}'
    )
    releases = registry(msgspec.json.decode(old, type=Announcement))
    assert releases.aliases() == {"live": "v1"}
