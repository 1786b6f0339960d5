"""Topics on a real Kafka: created by command and by nobody else, compared with the settings, and growing."""

import logging
import re
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from engine.cli.main import headrace
from engine.errors import EventLogError, SettingsError
from engine.eventlog import topic_plan
from engine.eventlog.base import TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.settings import loader

pytestmark = pytest.mark.kafka


@pytest.fixture
def environ(kafka_bootstrap: str, topic_names: Callable[[str], str]) -> dict[str, str]:
    """A deployment of its own, by its prefix."""
    return {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap, "HEADRACE_KAFKA__PREFIX": topic_names("shop")}


def run(environ: dict[str, str], *words: str) -> Result:
    return CliRunner(env=environ).invoke(headrace, words, catch_exceptions=False)


def lines(result: Result) -> dict[str, str]:
    """By the name of each topic after the prefix, what the command says of it."""
    assert result.exit_code == 0
    return dict(re.findall(r"^shop-\w+\.([\w.]+): (.*)$", result.output, re.MULTILINE))


def test_all_topics_of_a_deployment_are_created_once(environ: dict[str, str], kafka_log: KafkaLog) -> None:
    environ |= {"HEADRACE_TOPICS__DEAD_LETTER_RETENTION_H": "2", "HEADRACE_TOPICS__REPLICATION": "1"}
    settings = loader.load(None, environ)
    spread = {"clicks": 3, "recommendations": 3, "windows": 3, "clicks.dead": 1, "releases": 1}
    planned = lines(run(environ, "topics", "create", "--partitions", "3", "--dry-run"))
    assert planned == {name: f"would be created, partitions: {count}" for name, count in spread.items()}
    assert kafka_log.partitions(settings.clicks.topic) == 0
    made = lines(run(environ, "topics", "create", "--partitions", "3"))
    assert made == {name: f"created, partitions: {count}" for name, count in spread.items()}
    again = lines(run(environ, "topics", "create"))
    assert again == {name: f"exists, partitions: {count}" for name, count in spread.items()}
    dead = settings.clicks.dead_letter_topic
    configs = kafka_log.existing([dead, settings.windows.topic])
    assert configs[dead].configs["retention.ms"] == "7200000"
    assert configs[settings.windows.topic].configs["cleanup.policy"] == "compact"


def test_what_differs_from_the_settings_is_said(environ: dict[str, str], kafka_log: KafkaLog) -> None:
    settings = loader.load(None, environ)
    kafka_log.ensure_topics([TopicSpec(settings.clicks.topic, 2), TopicSpec(settings.windows.topic, 1)])
    kafka_log.ensure_topics([TopicSpec(settings.clicks.dead_letter_topic, 2, retention_ms=1000)])
    environ["HEADRACE_TOPICS__REPLICATION"] = "3"
    said = lines(run(environ, "topics", "create", "--partitions", "4", "--dry-run"))
    assert said["clicks"] == "exists, partitions: 2; partitions: 2, expected 4; replicas: 1, expected 3"
    assert said["windows"].startswith(
        "exists, partitions: 1; partitions: 1, expected 2; replicas: 1, expected 3;"
        " cleanup.policy: delete, expected compact"
    )
    assert said["clicks.dead"] == (
        "exists, partitions: 2; replicas: 1, expected 3; retention.ms: 1000, expected 1209600000"
    )
    assert said["recommendations"] == "would be created, partitions: 2"


def test_the_number_of_partitions_is_needed_to_create_clicks(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"--partitions is missing, and topic 'shop-\w+\.clicks' .* name it here"):
        run(environ, "topics", "create")


def test_a_worker_creates_its_own_topics_and_says_so(
    environ: dict[str, str], kafka_log: KafkaLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = loader.load(None, environ)
    with pytest.raises(EventLogError, match=r"topic 'shop-\w+\.clicks' \(clicks\.topic\) does not exist"):
        topic_plan.prepare(kafka_log, settings)
    assert kafka_log.existing([spec.name for spec in topic_plan.whole(settings, 1)]) == {}
    permitted = loader.load(
        None, environ | {"HEADRACE_CLICKS__CREATE_TOPIC": "true", "HEADRACE_TOPICS__PARTITIONS": "3"}
    )
    assert topic_plan.prepare(kafka_log, permitted) == 3
    created = [record.getMessage() for record in caplog.records if record.getMessage().startswith("created topic")]
    assert [line.split()[2].partition(".")[2].rstrip(":") for line in created] == [
        "clicks",
        *("recommendations", "windows", "clicks.dead"),
    ]
    assert "3 partitions, 1 replicas" in created[0]
    assert "retention.ms=1209600000" in created[-1]
