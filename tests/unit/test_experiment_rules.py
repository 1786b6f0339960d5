"""Experiments in the registry: what starts, what waits, what ends one; and the verbs on a watched folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from engine.cli.experiment import experiment as verb
from engine.cli.releases import releases
from engine.errors import ReleaseError
from engine.messages.announcement import Announcement
from engine.messages.experiment_messages import Experiment
from engine.releases import announcements, experiments
from engine.releases.announcements import FolderFeed
from engine.releases.registry import Change, Registry
from models.publishing import announce

MODEL = "two-hop"


def announced(version: str, announced_ms: int, state: str = "live") -> Announcement:
    return Announcement(
        model=MODEL,
        version=version,
        state=state,
        bundle=f"/{version}",
        manifest_checksum=version,
        announced_ms=announced_ms,
    )


def registry(*records: Change) -> Registry:
    return Registry(MODEL).with_changes(records)


def started(before: Registry, name: str = "e", now_ms: int = 10, arms: Sequence[str] = ("control", "b")) -> Registry:
    changes = experiments.start(before, name, [*map(experiments.parse_arm, arms)], now_ms)
    return before.with_changes(changes)


LIVE = registry(announced("v1", 1), announced("v2", 2))


def test_arms_have_equal_parts_of_what_is_left_and_versions_for_aliases() -> None:
    before = LIVE.with_changes([announced("v3", 3, "candidate")])
    arms = ("control", "b share=0.1 diversity=0.3 exclude_seen=false count=5", "c release=candidate")
    running = started(before, arms=arms).experiment()
    assert running is not None
    control, b, c = running.arms
    assert (control.share, b.share, c.share) == pytest.approx((0.45, 0.1, 0.45))
    assert b.settings == {"diversity": 0.3, "exclude_seen": False, "count": 5}
    assert (control.version, b.version, c.version, running.base_version) == ("", "", "v3", "v2")
    assert (running.started_ms, running.salt) == (10, "e/10")


def test_releases_that_are_announced_meanwhile_wait_for_the_end() -> None:
    #   v1 live   v2 live   e started   v3 live   v4 canary   e stopped
    during = started(LIVE).with_changes([announced("v3", 11), announced("v4", 12, "canary")])
    assert [known.version for known in during.live()] == ["v2", "v1"]
    assert during.waiting() == during.versions["v3"]
    assert during.canary() is None
    after = during.with_changes(experiments.stop(during, "e", 20, "enough"))
    assert after.experiment() is None
    assert after.aliases() == {"live": "v3", "previous": "v2", "canary": "v4"}
    assert after.waiting() is None
    assert after.canary_since_ms(after.versions["v4"]) == 20  # it had no users before
    assert experiments.state_of(after, after.experiments["e"]) == "stopped"


def test_a_rollback_and_a_pin_to_another_version_end_an_experiment() -> None:
    during = started(LIVE).with_changes([announced("v3", 11)])
    for changes in (during.rollback(20, reason="bad"), during.pin("v1", 20, "bad")):
        for count in range(1, len(changes) + 1):  # one who dies half way has ended it, too
            part = during.with_changes(changes[:count])
            assert part.experiment() is None
            assert part.live()[0].version == "v1"
        record = changes[-1]
        assert isinstance(record, Experiment)
        assert (record.state, record.announced_ms) == ("stopped", 20)
        assert record.reason.endswith(": bad")
        unpinned = during.with_changes(changes).with_changes([*during.with_changes(changes).unpin(30)])
        assert unpinned.experiment() is None


def test_a_pin_to_its_own_release_leaves_an_experiment_alone() -> None:
    during = started(LIVE)
    changes = during.pin("live", 20)
    assert len(changes) == 1
    assert during.with_changes(changes).experiment() == during.experiment()
    from_pinned = started(LIVE.with_changes(LIVE.pin("v1", 5)))
    assert from_pinned.experiment() is not None
    assert [known.version for known in from_pinned.live()] == ["v1", "v2"]


def test_an_experiment_whose_release_is_gone_is_over() -> None:
    during = started(LIVE).with_changes([announced("v2", 11, "retired")])
    assert during.experiment() is None
    assert experiments.state_of(during, during.experiments["e"]) == "over"
    assert [known.version for known in during.live()] == ["v1"]


def test_of_two_that_were_started_at_once_the_later_runs_and_the_earlier_does_not_come_back() -> None:
    (first,) = experiments.start(LIVE, "a", [*map(experiments.parse_arm, ("control", "b"))], 10)
    (second,) = experiments.start(LIVE, "z", [*map(experiments.parse_arm, ("control", "b"))], 10)
    for both in (LIVE.with_changes([first, second]), LIVE.with_changes([second, first])):
        running = both.experiment()
        assert running is not None
        assert running.experiment == "z"
        assert both.with_changes(experiments.stop(both, "z", 20)).experiment() is None
        assert both.merged(LIVE) == LIVE.merged(both) == both


def test_releases_in_arms_are_not_retired_and_others_are() -> None:
    before = LIVE.with_changes([announced("v3", 3, "candidate"), announced("v4", 4, "candidate")])
    during = started(before, arms=("control", "b release=v3"))
    with pytest.raises(ReleaseError, match="two-hop-v3 cannot be retired: found the experiment 'e' running"):
        during.retire("v3", 20)
    assert during.retire("v4", 20)
    assert during.promote("v2", 20)  # which is live already


def test_a_slow_clock_dates_an_experiment_after_what_it_has_read() -> None:
    during = started(LIVE, now_ms=0)
    running = during.experiment()
    assert running is not None
    assert running.started_ms == 3
    (ended,) = experiments.stop(during, "e", 0)
    assert isinstance(ended, Experiment)
    assert ended.announced_ms == 4
    assert during.merged(registry(ended)).experiments["e"].state == "stopped"


def test_experiments_are_kept_in_a_watched_folder(tmp_path: Path) -> None:
    during = started(LIVE)
    announcements.write_changes([*LIVE.versions.values(), *during.experiments.values()], tmp_path)
    assert FolderFeed(tmp_path, MODEL).registry() == during
    announcements.write_changes([announced("v3", 11)], tmp_path)
    assert FolderFeed(tmp_path, MODEL).registry().live()[0].version == "v2"
    newest = msgspec.json.decode((tmp_path / "two-hop.json").read_bytes(), type=Announcement)
    assert newest.version == "v2"  # by which workers from before serve, too


def run(*words: str) -> str:
    result = CliRunner().invoke(verb, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_verbs_on_a_watched_folder(tiny_release: Path, tmp_path: Path) -> None:
    folder = ("--folder", str(tmp_path))
    announce.to_folder(tiny_release, tmp_path, 1)
    arms = ("--arm", "control share=0.5", "--arm", "wide diversity=0.4 share=0.2")
    assert run("start", "first", *arms, "--salt", "s", "--min-users", "60", "--reason", "why", *folder) == (
        "the experiment 'first' is running: control 50.0%, wide 20.0% diversity=0.4\n"
    )
    (row,) = json.loads(run("list", "--json", *folder))
    assert (row["state"], row["salt"], row["min_users"], row["difference"]) == ("running", "s", 60, 0.01)
    listed = CliRunner().invoke(releases, ["list", *folder], catch_exceptions=False).output
    assert listed.startswith("the experiment 'first' is running: two-hop-tiny stays live until it is stopped\n")
    with pytest.raises(ReleaseError, match="found 'first' running"):
        run("start", "second", *arms, *folder)
    assert run("stop", "first", *folder) == (
        "the experiment 'first' is stopped; all users are served by two-hop-tiny\n"
    )
    assert run("list", *folder).split("  ")[:2] == ["first", "stopped"]
    pinned = CliRunner().invoke(releases, ["pin", "live", *folder], catch_exceptions=False)
    assert "two-hop-tiny is pinned" in pinned.output
