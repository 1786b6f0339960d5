"""An experiment of three arms on running workers: lists by arm, restarts, the report, and the way back."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import experiment_page
from engine.cli.experiment import experiment as verb
from engine.cli.experiment import ratio_line, read_report, table
from engine.eventlog.base import EventLog
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.messages.experiment_messages import Experiment
from engine.messages.recommendation import Recommendation
from engine.metrics import Metrics
from engine.quality.experiment import CLUSTERS
from engine.quality.experiment_report import ExperimentReport
from engine.releases import experiments
from engine.releases.arms import Arms
from engine.releases.experiments import Judgement
from engine.settings.sections import KafkaSettings, Settings
from tests.conftest import Report, only_long
from tests.integration.test_canary import CANARY, Shop, new_lists, sabotaged
from tests.integration.test_rollback import settings_of
from tests.unit.test_bundles import rewritten
from tests.waiting import until

__all__ = ["sabotaged"]  # a fixture, used by name

ARMS = ("control", "short count=3 diversity=0.2", "new share=0.4 release=candidate")
JUDGEMENT = Judgement(difference=0.05, min_users=50)


class Trials:
    """The verbs of experiments on a shop's registry, and the lists of the experiment that is running."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def start(self, name: str, *arms: str) -> Experiment:
        parsed = [*map(experiments.parse_arm, arms)]
        (record,) = self.shop.registrar.change(
            lambda registry: experiments.start(registry, name, parsed, now_ms(), judgement=JUDGEMENT)
        )
        assert isinstance(record, Experiment)
        return record

    def stop(self, name: str) -> None:
        self.shop.registrar.change(lambda registry: experiments.stop(registry, name, now_ms(), "seen enough"))

    def report(self) -> ExperimentReport:
        return read_report(self.shop.registrar, self.shop.log, self.shop.settings, None, now_ms())

    def lists(self, experiment: Experiment) -> list[Recommendation]:
        return [message for message in [*self.shop.messages] if message.experiment == experiment.experiment]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def value_of(metrics: Metrics, name: str, arm: str) -> float:
    return metrics.registry.get_sample_value(name, {"experiment": "three", "arm": arm}) or 0.0


def check_lists(experiment: Experiment, messages: list[Recommendation]) -> None:
    """Each user's arm follows from the hash, and what is in the list from the arm."""
    names = [arm.name for arm in experiment.arms]
    users = sorted({message.user for message in messages})
    arms = Arms(experiment.salt, tuple(arm.share for arm in experiment.arms), CLUSTERS).groups(users) // CLUSTERS
    arm_of = {user: names[arm] for user, arm in zip(users, arms.tolist(), strict=True)}
    for message in messages:
        assert message.arm == arm_of[message.user]
        assert message.release == ("two-hop-sabotaged" if message.arm == "new" else "two-hop-tiny")
        assert len(message.items) <= (3 if message.arm == "short" else 20)


def run_experiment(log: EventLog, settings: Settings, good: Path, other: Path, report: Report) -> None:
    shop = Shop(log, settings)
    trials = Trials(shop)
    shop.publish(good, "live")
    shop.publish(other, "candidate")
    with shop.open():
        with shop.worker() as (_, metrics):
            experiment = trials.start("three", *ARMS)
            until(lambda: {message.arm for message in trials.lists(experiment)} == {"control", "short", "new"})
            until(lambda: sum(arm.clicks for arm in trials.report().arms) > 300)
            until(lambda: value_of(metrics, "headrace_experiment_users", "new") > 50)
            assert value_of(metrics, "headrace_experiment_gain", "control") > 0.5
        before = trials.report()
        with shop.worker(), shop.worker():  # a restart, and one that joins
            until(lambda: trials.report().sessions > before.sessions)  # the new ones have written sums
            after = trials.report()
            until(lambda: trials.report().arms[2].verdict == "worse")
            until(lambda: trials.report().looks)
            trials.stop("three")
            # Some by the arms were under way.
            until(lambda: {message.experiment for message in new_lists(shop)} == {""})
            lists = new_lists(shop)
            assert {message.experiment for message in lists} == {""}
            assert {message.release for message in lists} == {"two-hop-tiny"}
    check_lists(experiment, trials.lists(experiment))
    for earlier, later in zip(before.arms, after.arms, strict=True):
        assert later.clicks >= earlier.clicks > 0
        assert later.users >= earlier.users > 0
    check_report(trials.report(), report)


def check_report(whole: ExperimentReport, report: Report) -> None:
    assert (whole.state, whole.reason, whole.sample_ratio.mismatch) == ("stopped", "seen enough", False)
    users = {arm.arm: arm.users for arm in whole.arms}
    assert whole.sample_ratio.users == users
    assert sum(users.values()) <= 600
    worse = whole.arms[2]
    assert worse.always_valid is not None
    assert worse.fixed_horizon is not None
    upper = worse.fixed_horizon.upper
    assert upper is not None
    assert worse.always_valid.lower <= worse.fixed_horizon.lower <= (worse.lift or 0.0) < upper < 0.0
    assert worse.p_value is not None
    assert worse.p_value < JUDGEMENT.error
    lines = table(whole)
    report("\n".join(lines), {})
    assert lines[0].startswith("experiment 'three' is stopped: ")
    assert lines[1] == ratio_line(whole)
    heads = "arm share users clicks hits gain lift always valid verdict fixed horizon p"
    assert lines[2].split() == heads.split()
    assert [line.split()[0] for line in lines[3:]] == ["control", "short", "new"]
    page = experiment_page.render(whole)
    assert page.count("<polyline") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_lists_differ_by_arm_and_the_sums_outlive_the_workers(
    tiny_release: Path, sabotaged: Path, report: Report
) -> None:
    settings = settings_of(lambda name: name, poll_interval_s=0.1).model_copy(update={"canary": CANARY})
    run_experiment(MemoryLog(), settings, tiny_release, sabotaged, report)


@only_long
@pytest.mark.kafka
def test_an_experiment_on_kafka(
    kafka_log: KafkaLog,
    kafka_settings: KafkaSettings,
    topic_names: Callable[[str], str],
    tiny_release: Path,
    sabotaged: Path,
    tmp_path: Path,
    report: Report,
) -> None:
    canary = CANARY.model_copy(update={"topic": topic_names("canary-sums")})
    settings = settings_of(topic_names, kafka_settings).model_copy(update={"canary": canary})
    run_experiment(kafka_log, settings, tiny_release, sabotaged, report)
    environ = {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "HEADRACE_RELEASES__TOPIC": settings.releases.topic,
        "HEADRACE_CANARY__TOPIC": settings.canary.topic,
    }
    page = tmp_path / "report.html"
    result = CliRunner().invoke(verb, ["report", "three", "--html", str(page)], env=environ, catch_exceptions=False)
    assert result.output.startswith("experiment 'three' is stopped: ")
    assert result.output.endswith(f"the page is {page}\n")
    assert page.read_text().count("<polyline") == 2
    printed = CliRunner().invoke(verb, ["report", "--json"], env=environ, catch_exceptions=False)
    assert json.loads(printed.output)["arms"][2]["verdict"] == "worse"
    purged = CliRunner().invoke(verb, ["purge", "three"], env=environ, catch_exceptions=False)
    assert purged.output == "the sums and looks of the experiment 'three' are deleted\n"
    printed = CliRunner().invoke(verb, ["report", "--json"], env=environ, catch_exceptions=False)
    assert {arm["users"] for arm in json.loads(printed.output)["arms"]} == {0}


def test_an_arm_that_cannot_be_served_is_said_and_its_users_get_the_live_release(
    tiny_release: Path, tmp_path: Path
) -> None:
    """A byte of its bundle is flipped after it was announced; another arm has a setting that this worker refuses."""
    settings = settings_of(lambda name: name, poll_interval_s=0.1).model_copy(update={"canary": CANARY})
    shop = Shop(MemoryLog(), settings)
    trials = Trials(shop)
    shop.publish(tiny_release, "live")
    damaged = rewritten(tiny_release, tmp_path / "bundles", version="damaged")
    shop.publish(damaged, "candidate")
    vectors = damaged / "vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    with shop.open(), shop.worker():
        experiment = trials.start("broken", "control", "same", "new release=candidate", "later novelty=0.5")
        until(lambda: all(trials.report().arms[index].users > 60 for index in (0, 1)))
        until(lambda: len({message.user for message in shop.messages if not message.experiment}) > 200)
        whole = trials.report()
        trials.shop.registrar.change(lambda registry: registry.rollback(now_ms(), "tiny", "enough"))
        until(lambda: trials.report().state == "stopped")
    assert {message.arm for message in trials.lists(experiment)} == {"control", "same"}
    assert {message.release for message in shop.messages} == {"two-hop-tiny"}
    new, later = whole.arms[2:]
    assert (new.users, new.clicks, new.verdict) == (0, 0, "not served everywhere")
    assert "vectors.npy" in new.refused[0]
    assert "'novelty' of an arm" in later.refused[0]
    assert not whole.sample_ratio.mismatch
    assert set(whole.sample_ratio.users) == {"control", "same"}
    assert any(line.startswith("new: not served by some worker: ") for line in table(whole))
