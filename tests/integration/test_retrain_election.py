"""Two retrainers of one model on a real Kafka: one is at work, the other when that one is gone."""

import time
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="retraining needs torch: pip install 'headrace[train]'")

from engine.eventlog.kafka import KafkaLog
from engine.settings.sections import KafkaSettings, ReleaseSettings, Settings
from models.jobs.election import Election
from tests.waiting import until

pytestmark = pytest.mark.kafka


def test_the_group_elects_one_of_two(
    kafka_log: KafkaLog, kafka_settings: KafkaSettings, topic_names: Callable[[str], str]
) -> None:
    settings = Settings(
        kafka=kafka_settings.model_copy(update={"group": topic_names("group")}),
        releases=ReleaseSettings(topic=topic_names("releases")),
    )
    with Election(settings, kafka_log) as first, Election(settings, kafka_log) as second:
        members = (first, second)
        until(lambda: any(member.is_elected() for member in members))
        time.sleep(1.0)  # the group settles on two
        elected = [member.is_elected() for member in members]
        assert sum(elected) == 1
        members[elected.index(True)].__exit__()
        until(members[elected.index(False)].is_elected)
        assert not members[elected.index(True)].is_elected()
