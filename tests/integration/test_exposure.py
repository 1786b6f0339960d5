"""Exposure by impressions on running workers: what was shown differs from what was sent, and the verdict with it."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
from click.testing import CliRunner

from engine.cli.experiment import experiment as verb
from engine.cli.experiment import read_report
from engine.errors import EventLogError, SettingsError
from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing, Partition, Rebalance
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.memory.session import MemorySession
from engine.messages import list_ids
from engine.messages.impression import Impression, ShownItem
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.metrics import Metrics
from engine.quality.experiment_report import ExperimentReport
from engine.releases import experiments
from engine.releases.experiments import Judgement
from engine.releases.registrar import Registrar
from engine.settings.sections import Exposure, ImpressionSettings, KafkaSettings, Settings
from engine.worker.loop import Worker
from models.publishing import announce
from tests.conftest import Report
from tests.integration.served import serving
from tests.integration.test_canary import CANARY, PARTITIONS, START_MS, USERS, Shop
from tests.integration.test_experiments import Trials, now_ms
from tests.integration.test_rollback import settings_of
from tests.unit.test_bundles import rewritten
from tests.waiting import until

BY_IMPRESSIONS = CANARY.model_copy(update={"exposure": "impressions", "impression_wait_s": 0.3})
BY_WHAT_IS_SHOWN = Judgement(difference=0.05, min_users=50, exposure="impressions")
ACCEPTED = ImpressionSettings(accept=True)
SHOWN_AFTER_MS = 1_000
"""From the click that a list follows to its sight; the next click of the user is a minute later at least."""

Page = Callable[[Recommendation], list[ShownItem] | None]
"""Places on which items of a list are shown; None where nobody looks."""


def as_sent(message: Recommendation) -> list[ShownItem]:
    return [ShownItem(listed.item, place) for place, listed in enumerate(message.items, 1)]


class ReportingShop(Shop):
    """A shop whose page reports what it shows."""

    def __init__(self, log: EventLog, settings: Settings, page: Page) -> None:
        super().__init__(log, settings)
        log.ensure_topics([topic_plan.impressions(settings, PARTITIONS + 1)])  # not those of the clicks
        self.page = page
        self._reported = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        reports = threading.Thread(target=self._report_all)
        with super().open():
            reports.start()
            try:
                yield
            finally:
                self.stop.set()
                reports.join()

    def _report_all(self) -> None:
        with self.log.producer() as producer:
            while not self.stop.wait(0.01):
                news = self.messages[self._reported :]
                self._reported += len(news)
                shown = [(message, items) for message in news if (items := self.page(message))]
                reports = [report_of(message, items) for message, items in shown]
                producer.send(
                    Outgoing(
                        self.settings.impressions.topic,
                        [report.user.encode() for report in reports],
                        [*map(msgspec.json.encode, reports)],
                    )
                )
                producer.flush()


def report_of(message: Recommendation, items: list[ShownItem]) -> Impression:
    shown_ms = message.event_ms + SHOWN_AFTER_MS
    return Impression(decision=message.id, user=message.user, shown_ms=shown_ms, received_ms=shown_ms, items=items)


def lower_half(message: Recommendation) -> list[ShownItem] | None:
    """Two of three users look, and a page that is broken for one arm shows it the second ten items alone."""
    if int(message.user[1:]) % 3 == 0:
        return None
    return as_sent(message) if message.arm != "same" else as_sent(message)[10:]


def start(shop: Shop, exposure: Exposure) -> None:
    """Start an experiment whose arms are the same, named after its exposure."""
    arms = [*map(experiments.parse_arm, ("control", "same"))]
    judgement = Judgement(difference=0.05, min_users=50, exposure=exposure)
    shop.registrar.change(lambda registry: experiments.start(registry, exposure, arms, now_ms(), judgement=judgement))


def verdict(shop: ReportingShop, exposure: Exposure) -> ExperimentReport:
    """The report of an experiment whose arms are the same, once it is decided, or has 600 clicks."""
    trials = Trials(shop)
    arms = [*map(experiments.parse_arm, ("control", "same"))]
    judgement = Judgement(difference=0.05, min_users=50, exposure=exposure)
    shop.registrar.change(lambda registry: experiments.start(registry, exposure, arms, now_ms(), judgement=judgement))
    until(lambda: (seen := trials.report().arms)[1].verdict == "worse" or sum(arm.clicks for arm in seen) > 600)
    report = trials.report()
    trials.stop(exposure)
    return report


def test_a_page_that_shows_other_items_than_were_sent_is_seen_by_impressions_alone(
    tiny_release: Path, report: Report
) -> None:
    settings = settings_of(lambda name: name, poll_interval_s=0.1)
    settings = settings.model_copy(update={"canary": BY_IMPRESSIONS, "impressions": ACCEPTED})
    shop = ReportingShop(MemoryLog(), settings, lower_half)
    shop.publish(tiny_release, "live")
    with shop.worker() as _, shop.worker(), shop.open():
        by_lists, by_impressions = verdict(shop, "lists"), verdict(shop, "impressions")
    for whole in (by_lists, by_impressions):
        report(
            f"{whole.exposure}: {whole.sample_ratio} {[(arm.users, arm.clicks, arm.gain) for arm in whole.arms]}", {}
        )
    assert by_lists.arms[1].verdict != "worse"
    assert by_impressions.arms[1].verdict == "worse"
    assert by_impressions.arms[1].gain == 0.0


class FailingLog(MemoryLog):
    """A log on which the next commit of a worker fails, when it is told so, before anything is visible."""

    fails = False

    def session(self, topics: Sequence[str], group: str, rebalance: Rebalance) -> MemorySession:
        session = super().session(topics, group, rebalance)
        commit = session.commit

        def failing(positions: Mapping[Partition, int], state: Sequence[Outgoing] = ()) -> dict[Partition, int]:
            if self.fails:
                self.fails = False
                raise EventLogError("the commit failed")
            return commit(positions, state)

        session.commit = failing  # type: ignore[method-assign]
        return session


class Steps:
    """Users of an experiment who click and look step by step, and workers whose turns the test takes."""

    USERS: Final = [f"u{number}" for number in range(120)]

    def __init__(self, trials: Trials) -> None:
        self.trials, self.log, self.settings = trials, trials.shop.log, trials.shop.settings
        self.worker = Worker(self.settings, self.log, Metrics())
        self.lists: dict[str, Recommendation] = {}
        self._reader = self.log.reader([self.settings.recommendations.topic])
        self._time_ms = START_MS
        self.worker.start()

    def restart(self) -> None:
        self.worker.close()
        self.worker = Worker(self.settings, self.log, Metrics())
        self.worker.start()

    def click(self, items: Mapping[str, str]) -> None:
        """Let each of these users click an item, and the worker go on until each has a list for that."""
        self._time_ms += 60_000
        values: list[bytes | None] = [
            json.dumps({"user": user, "item": item, "ts": self._time_ms}).encode() for user, item in items.items()
        ]
        with self.log.producer() as producer:
            producer.send(Outgoing(self.settings.clicks.topic, [user.encode() for user in items], values))
        self.turn_until(lambda: all(self._has_list(user) for user in items))

    def look(self) -> None:
        """Let each user be shown the newest list."""
        reports = [report_of(self.lists[user], as_sent(self.lists[user])) for user in self.USERS]
        keys: list[bytes | None] = [report.user.encode() for report in reports]
        with self.log.producer() as producer:
            producer.send(Outgoing(self.settings.impressions.topic, keys, [*map(msgspec.json.encode, reports)]))

    def count(self, clicks: int) -> None:
        """Let somebody who is shown nothing click, until so many clicks of the others are counted, and a little on."""
        self.warm_until(lambda: sum(arm.clicks for arm in self.trials.report().arms) >= clicks)
        for _ in range(3):
            self.warm_until(lambda: True)

    def warm_until(self, condition: Callable[[], bool]) -> None:
        """Let somebody who is shown nothing click again and again."""

        def clicked() -> bool:
            time.sleep(0.02)
            self.click({"warm": "i1"})
            return condition()

        until(clicked)

    def _has_list(self, user: str) -> bool:
        for records in self._reader.poll(0.0, 1000):
            for value in filter(None, records.values):
                message = decode_recommendation(value)
                self.lists[message.user] = message
        return user in self.lists and self.lists[user].event_ms == self._time_ms

    def turn_until(self, condition: Callable[[], bool]) -> None:
        def turned() -> bool:
            self.worker.step()
            return condition()

        until(turned)


def test_failures_and_restarts_count_no_click_and_no_user_twice(tiny_release: Path) -> None:
    """Every user clicks the first item of the list shown last: before a failed commit, in it, and after a restart."""
    at_once = BY_IMPRESSIONS.model_copy(update={"impression_wait_s": 0.0, "interval_s": 0.001})
    settings = settings_of(lambda name: name, poll_interval_s=0.05)
    settings = settings.model_copy(update={"canary": at_once, "impressions": ACCEPTED})
    log = FailingLog()
    shop = ReportingShop(log, settings, as_sent)  # makes topics and publishes; its shoppers stay at home
    shop.publish(tiny_release, "live")
    trials = Trials(shop)
    steps = Steps(trials)
    steps.click({"warm": "i1"})
    start(shop, "impressions")
    steps.warm_until(lambda: bool(steps.lists["warm"].experiment))
    steps.click(dict.fromkeys(Steps.USERS, "i3"))
    steps.look()
    users = len(Steps.USERS)
    for turn in range(1, 4):
        first = {user: steps.lists[user].items[0].item for user in Steps.USERS}
        log.fails = turn == 2
        steps.click(first)
        steps.count(turn * users)
        whole = trials.report()
        assert sum(arm.clicks for arm in whole.arms) == turn * users
        assert {arm.gain for arm in whole.arms} == {1.0}
        assert sum(arm.users for arm in whole.arms) == users
        steps.look()
        if turn == 2:
            steps.restart()
    assert whole.sessions == 3
    steps.worker.close()


def test_a_canary_whose_lists_are_shown_badly_is_taken_back(tiny_release: Path, tmp_path: Path, report: Report) -> None:
    """It has the weights of the live release: by the lists that were sent there is no difference."""
    settings = settings_of(lambda name: name, poll_interval_s=0.1)
    settings = settings.model_copy(update={"canary": BY_IMPRESSIONS, "impressions": ACCEPTED})

    def page(message: Recommendation) -> list[ShownItem]:
        return as_sent(message)[10:] if message.release == "two-hop-same" else as_sent(message)

    shop = ReportingShop(MemoryLog(), settings, page)
    shop.publish(tiny_release, "live")
    with shop.worker() as (worker, _), shop.open():
        shop.publish(rewritten(tiny_release, tmp_path / "bundles", version="same"), "canary")
        until(lambda: shop.registrar.read().versions["same"].state == "retired")
        assert worker.release_name == "two-hop-tiny"
    reason = shop.registrar.read().versions["same"].reason
    report(reason, {})
    assert reason.startswith("canary take back: gain 0.0000 beside 0.")
    assert reason.endswith(", by what was shown")
    ends = {str(list_ids.mark_of(message.id) or "").rpartition("~")[2] for message in shop.messages}
    assert ends == {"", "live", "canary"}


@pytest.mark.kafka
def test_exposure_by_impressions_on_kafka(
    kafka_log: KafkaLog, kafka_settings: KafkaSettings, topic_names: Callable[[str], str], tiny_release: Path
) -> None:
    settings = settings_of(topic_names, kafka_settings, poll_interval_s=0.1)
    names = {"canary": topic_names("canary-sums"), "impressions": topic_names("impressions")}
    canary = BY_IMPRESSIONS.model_copy(update={"exposure": "lists", "topic": names["canary"]})
    impressions = ImpressionSettings(topic=names["impressions"], accept=True)
    settings = settings.model_copy(update={"canary": canary, "impressions": impressions})
    environ = {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "HEADRACE_RELEASES__TOPIC": settings.releases.topic,
        "HEADRACE_CANARY__TOPIC": names["canary"],
        "HEADRACE_IMPRESSIONS__TOPIC": names["impressions"],
        "HEADRACE_IMPRESSIONS__ACCEPT": "true",
    }
    arms = ("--arm", "control", "--arm", "same", "--min-users", "50", "--exposure", "impressions")
    with pytest.raises(SettingsError, match=r"topic '.*' \(impressions\.topic\) does not exist"):
        CliRunner().invoke(verb, ["start", "shown", *arms], env=environ, catch_exceptions=False)
    shop = ReportingShop(kafka_log, settings, lower_half)
    shop.publish(tiny_release, "live")
    with shop.worker(), shop.open():
        started = CliRunner().invoke(verb, ["start", "shown", *arms], env=environ, catch_exceptions=False)
        assert started.output.startswith("the experiment 'shown' is running, judged by impressions: control 50.0%")
        until(lambda: Trials(shop).report().arms[1].verdict == "worse")
    printed = CliRunner().invoke(verb, ["report"], env=environ, catch_exceptions=False).output
    assert " judged by impressions, workers' sessions: 1\n" in printed
    assert "users who were shown a list as the shares promise" in printed
    users = [arm.users for arm in Trials(shop).report().arms]
    assert 100 < sum(users) <= 2 * USERS // 3


def test_a_report_over_http_of_a_list_that_was_replaced_since_counts_where_users_have_pseudonyms(
    tiny_release: Path, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("k" * 40)
    with serving(tiny_release, impressions=True, pseudonym_key_file=key_file) as running:
        registrar = Registrar("two-hop", running.log, topic_plan.releases(running.settings))
        announce.to_topic(tiny_release, running.log, registrar.topic, now_ms(), state="live")
        arms = [*map(experiments.parse_arm, ("control", "same"))]
        registrar.change(lambda known: experiments.start(known, "e", arms, now_ms(), judgement=BY_WHAT_IS_SHOWN))

        def counted() -> ExperimentReport:
            running.log.producer().send(Outgoing("clicks", [b"ann"], [click_at(now_ms())]))
            time.sleep(0.02)
            return read_report(registrar, running.log, running.settings, "e", now_ms())

        until(lambda: counted() and running.get("/v1/list", user="ann").json().get("arm"))
        first = running.get("/v1/list", user="ann").json()
        until(lambda: counted() and running.get("/v1/list", user="ann").json()["id"] != first["id"])
        assert sum(arm.users for arm in counted().arms) == 0
        shown = [{"item": first["items"][0]["item"], "place": 1}]
        report = {"decision": first["id"], "user": "ann", "items": shown}
        assert running.post("/v1/impressions", {"impressions": [report]}).json() == {"taken": 1, "known": 0}
        until(lambda: sum(arm.users for arm in counted().arms) == 1)
        assert {arm.arm for arm in counted().arms if arm.users} == {first["arm"]}


def click_at(time_ms: int) -> bytes:
    return json.dumps({"user": "ann", "item": "i10", "ts": time_ms}).encode()
