"""Exposure by impressions in one worker, turn by turn: who counts, and by what a click is judged."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from engine.arrays import Clicks
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.time_source import TimeSource
from engine.messages.announcement import Announcement
from engine.messages.experiment_messages import Experiment
from engine.messages.impression import Impression, ShownItem
from engine.metrics import Metrics
from engine.quality import experiment_report
from engine.quality.experiment import CLUSTERS
from engine.releases.release_loader import Canary
from engine.releases.serving import LiveRelease
from engine.settings.sections import CanarySettings
from engine.worker.canary import CanaryArms
from engine.worker.experiment_arms import ExperimentArms
from engine.worker.impression_follower import ImpressionFollower, PolledImpressions
from engine.worker.judged_arms import JudgedArms
from engine.worker.shown_exposure import ShownExposure
from engine.worker.sums_reader import SumsReader
from tests.unit.test_judged_arms import EXPERIMENT, decoded, sampled
from tests.waiting import until

WAIT_S = 10.0
SETTINGS = CanarySettings(exposure="impressions", impression_wait_s=WAIT_S, interval_s=0.001)
BY_IMPRESSIONS = msgspec.structs.replace(EXPERIMENT, exposure="impressions")


class NotingFollower(ImpressionFollower):
    """Says from before which time all reports were taken."""

    taken_until_s: float | None = None

    def take(self) -> PolledImpressions | None:
        polled = super().take()
        if polled is not None and polled.reading == self.reading:
            self.taken_until_s = polled.until_s
        return polled


@dataclass
class Trial:
    """One worker's end of a trial, with a clock that the test sets."""

    arms: JudgedArms
    log: MemoryLog = field(default_factory=MemoryLog)
    metrics: Metrics = field(default_factory=Metrics)
    held: set[str] = field(default_factory=set)
    now_s: float = 100.0

    def __post_init__(self) -> None:
        time_source = TimeSource(monotonic_s=lambda: self.now_s)
        self.follower = NotingFollower(self.log, "impressions", "the experiment 'e'", time_source)
        self.shown = ShownExposure(self.arms, self.follower, self.held.__contains__, self.metrics, time_source)

    def report(self, user: str, decision: str, shown_ms: int, *items: str) -> None:
        places = [ShownItem(item, place) for place, item in enumerate(items, 1)]
        impression = Impression(decision=decision, user=user, shown_ms=shown_ms, received_ms=0, items=places)
        self.put(user, msgspec.json.encode(impression))

    def put(self, user: str, value: bytes | None) -> None:
        self.log.producer().send(Outgoing("impressions", [user.encode()], [value]))

    def click(self, user: str, item: str, time_ms: int) -> None:
        one = np.zeros(1, np.int64)
        clicks = Clicks(
            [user], [item], one + time_ms, one.astype(np.uint8), one.astype(np.uint32), one.astype(np.int32), one, one
        )
        self.shown.hold(clicks, one)

    def wait(self, seconds: float) -> None:
        """Let time pass, until all reports from before are taken."""
        self.now_s += seconds
        until(lambda: (self.shown.step() or True) and self.follower.taken_until_s == self.now_s)

    def counted(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("headrace_trial_impressions_total", {"outcome": outcome})


@contextmanager
def running(arms: JudgedArms, *, has_topic: bool = True) -> Iterator[Trial]:
    log = MemoryLog()
    if has_topic:
        log.ensure_topics([TopicSpec("impressions", 3)])
    trial = Trial(arms, log)
    try:
        yield trial
    finally:
        trial.shown.close()
        trial.follower.close()


def users_of(arms: JudgedArms, arm: int, count: int) -> list[str]:
    users = [f"user-{number}" for number in range(500)]
    groups = arms._arms.groups(users) // CLUSTERS
    return [user for user, group in zip(users, groups.tolist(), strict=True) if group == arm][:count]


def experiment_arms(refused: str = "") -> ExperimentArms:
    return ExperimentArms(BY_IMPRESSIONS, {refused: "damaged"} if refused else {}, SETTINGS)


def decision_of(arm: str, offset: int = 0, experiment: Experiment = BY_IMPRESSIONS) -> str:
    return f"0-{offset}-two-hop-v1~{experiment.experiment}~{arm}"


def test_users_count_from_the_first_impression_of_a_list_of_their_arm() -> None:
    arms = experiment_arms()
    ann, bob, cid, dan = users_of(arms, 0, 4)
    eve = users_of(arms, 1, 1)[0]
    with running(arms) as trial:
        trial.held |= {ann, bob, cid, dan, eve}
        assert (arms.listed([ann, bob]) // CLUSTERS).tolist() == [0, 0]  # a list that was sent makes nobody count
        trial.report(ann, decision_of("a"), 0, "x")
        trial.report(ann, decision_of("a", 1), 0, "x")
        trial.report(bob, "nHqS5TzIcDy7uq4p", 0, "x")  # of an answer over HTTP
        trial.report(bob, "0-0-two-hop-v1", 0, "x")  # of a list from before the experiment
        trial.report(cid, decision_of("b"), 0, "x")  # of another arm than the user's
        trial.report(dan, "0-0-two-hop-v1~earlier~a", 0, "x")  # of another experiment
        trial.report(eve, decision_of("b"), 0, "x")
        trial.report("elsewhere", decision_of("a"), 0, "x")  # of a user of another worker
        trial.put(dan, b"{")
        trial.put(dan, None)
        trial.wait(1.0)
        record = decoded(arms.record(0.0))
        assert (sampled(record), record.exposure) == ([1, 1, 0], "impressions")
        assert [trial.counted(outcome) for outcome in ("arm", "other", "unreadable")] == [3, 4, 2]


def test_users_of_an_arm_that_this_worker_refuses_count_in_none() -> None:
    arms = experiment_arms(refused="a")
    ann = users_of(arms, 0, 1)[0]
    with running(arms) as trial:
        trial.held.add(ann)
        trial.report(ann, decision_of("a"), 0, "x")  # made by another worker
        trial.wait(1.0)
        assert sampled(decoded(arms.record(0.0))) == [0, 0, 0]
        assert trial.counted("other") == 1


def test_a_click_waits_for_reports_and_is_judged_by_what_was_shown_before_it() -> None:
    """Time:  A shown at 10, click at 15 on its second item, B shown at 20; the report of A comes last."""
    arms = experiment_arms()
    ann, bob = users_of(arms, 0, 2)
    with running(arms) as trial:
        trial.held |= {ann, bob}
        trial.click(ann, "y", 15)
        trial.click(bob, "y", 15)  # who is shown nothing
        trial.report(ann, decision_of("a", 2), 20, "y")
        trial.wait(WAIT_S / 2)
        trial.report(ann, decision_of("a", 1), 10, "x", "y")
        trial.wait(WAIT_S / 2 - 0.5)
        assert sum(map(sum, decoded(arms.record(0.0)).clicks)) == 0
        trial.wait(1.0)
        record = decoded(arms.record(1.0))
        assert [sum(map(sum, sums)) for sums in (record.clicks, record.hits)] == [1, 1]
        assert sum(map(sum, record.gains)) == pytest.approx(1 / np.log2(1 + 2), abs=1e-6)


def test_a_failed_session_drops_what_waits_and_keeps_who_was_shown_something() -> None:
    arms = experiment_arms()
    ann = users_of(arms, 0, 1)[0]
    with running(arms) as trial:
        trial.held.add(ann)
        trial.report(ann, decision_of("a"), 10, "x")
        trial.click(ann, "x", 15)
        trial.wait(1.0)
        first = decoded(arms.record(0.0))
        arms.begin_session()
        trial.shown.begin_session()
        trial.click(ann, "x", 15)  # comes again
        trial.wait(WAIT_S + 1.0)
        again = decoded(arms.record(1.0))
        assert first.key != again.key
        assert [sum(map(sum, record.clicks)) for record in (first, again)] == [0, 1]
        assert first.sampled == again.sampled != ["", "", ""]


def test_what_was_shown_is_read_again_when_windows_come() -> None:
    arms = experiment_arms()
    ann = users_of(arms, 0, 1)[0]
    with running(arms) as trial:
        trial.report(ann, decision_of("a"), 10, "x")
        trial.wait(1.0)
        trial.held.add(ann)  # from another worker
        trial.shown.restored()
        trial.click(ann, "x", 15)
        trial.wait(WAIT_S + 1.0)
        record = decoded(arms.record(0.0))
        assert (sum(map(sum, record.hits)), sampled(record)) == (1, [1, 0, 0])
        trial.shown.forget(ann)
        trial.click(ann, "x", 16)
        trial.shown.forget(ann)
        trial.wait(WAIT_S + 1.0)
        assert sum(map(sum, decoded(arms.record(1.0)).clicks)) == 1


def test_a_click_on_an_interleaved_list_is_a_credit_for_the_release_of_its_place() -> None:
    announcement = Announcement(
        model="two-hop", version="8", state="canary", bundle="b", manifest_checksum="c", announced_ms=5
    )
    settings = SETTINGS.model_copy(update={"mode": "interleave", "share": 0.5})
    arms = CanaryArms(Canary(announcement, LiveRelease.__new__(LiveRelease)), "two-hop-7", settings)
    (end,) = arms.marks(1, 1, np.array([[1, 0, -1]], np.int8))
    assert end == "~canary.5~canary+10."
    assert arms.marks(0, 2) == ["~canary.5~live"] * 2
    ann, bob = users_of(arms, 1, 2)
    with running(arms) as trial:
        trial.held |= {ann, bob}
        for user, item in ((ann, "x"), (bob, "y")):
            trial.report(user, f"0-0-two-hop-7+two-hop-8{end}", 10, "x", "y")
            trial.click(user, item, 15)
        trial.wait(WAIT_S + 1.0)
        assert arms._sums.hits.sum(axis=1).tolist() == [1, 1]  # y was put there by the live release
        assert arms._sums.clicks.sum(axis=1).tolist() == [2, 2]


def test_a_topic_that_does_not_exist_is_said_once_and_read_when_it_does(caplog: pytest.LogCaptureFixture) -> None:
    arms = experiment_arms()
    ann = users_of(arms, 0, 1)[0]
    with caplog.at_level(logging.ERROR), running(arms, has_topic=False) as trial:
        until(lambda: bool(caplog.messages))
        trial.held.add(ann)
        trial.log.ensure_topics([TopicSpec("impressions")])
        trial.report(ann, decision_of("a"), 10, "x")
        trial.wait(1.0)
        assert sampled(decoded(arms.record(0.0))) == [1, 0, 0]
    (message,) = caplog.messages
    assert message.startswith("topic 'impressions' (impressions.topic) does not exist: nobody counts in the experiment")
    assert "impressions.accept = true" in message


def test_a_page_that_loses_lists_of_one_arm_is_a_sample_ratio_mismatch_by_impressions_alone() -> None:
    """All users are sent lists, and half of those of arm b see theirs; another worker counts by lists."""
    by_lists, arms = ExperimentArms(EXPERIMENT, {}, SETTINGS), experiment_arms()
    users = [user for arm in range(3) for user in users_of(arms, arm, 500)]
    log = MemoryLog()
    log.ensure_topics([TopicSpec("canary-sums", compacted=True)])
    with running(arms) as trial:
        trial.held |= {*users}
        groups = arms.listed(users) // CLUSTERS
        by_lists.listed(users)
        for user, arm in zip(users, groups.tolist(), strict=True):
            if arm != 1 or int(user.removeprefix("user-")) % 2:
                trial.report(user, decision_of("abc"[arm]), 0, "x")
        trial.wait(1.0)
    for counting in (by_lists, arms):
        if (record := counting.record(0.0)) is not None:
            log.producer().send(record)
    reader = SumsReader(log.reader(["canary-sums"]))
    sent, shown = (
        experiment_report.report(known, "running", reader.counts(known), [], 9)
        for known in (EXPERIMENT, BY_IMPRESSIONS)
    )
    reader.close()
    assert (sent.sessions, shown.sessions) == (1, 1)
    assert (sent.sample_ratio.mismatch, shown.sample_ratio.mismatch) == (False, True)
    assert sum(arm.users for arm in shown.arms) < sum(arm.users for arm in sent.arms) == len(users)
