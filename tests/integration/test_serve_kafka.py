"""The HTTP server and a worker on a real Kafka."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.metrics import Metrics
from engine.settings.sections import (
    ClickSettings,
    ImpressionSettings,
    KafkaSettings,
    RecommendationSettings,
    ReleaseSettings,
    WindowSettings,
)
from engine.view.http_server import HttpServer
from engine.worker.loop import Worker
from tests.integration.served import START_MS, settings_for
from tests.waiting import LIMIT_S, until

pytestmark = pytest.mark.kafka


def test_a_server_on_kafka_repeats_and_computes_what_the_worker_pushes(
    kafka_log: KafkaLog, kafka_settings: KafkaSettings, topic_names: Callable[[str], str], tiny_release: Path
) -> None:
    plain = settings_for(tiny_release)
    settings = plain.model_copy(
        update={
            "kafka": kafka_settings.model_copy(update={"group": topic_names("group")}),
            "clicks": ClickSettings(topic=topic_names("clicks"), dead_letter_topic=topic_names("dead")),
            "windows": WindowSettings(topic=topic_names("windows"), max_users=200, length=20),
            "recommendations": RecommendationSettings(topic=topic_names("lists"), count=5),
            "releases": ReleaseSettings(topic=topic_names("releases"), path=tiny_release),
            "impressions": ImpressionSettings(topic=topic_names("impressions"), accept=True),
        }
    )
    kafka_log.ensure_topics([TopicSpec(settings.clicks.topic, 2)])
    stop = threading.Event()
    worker = Worker(settings, KafkaLog(settings.kafka), Metrics())
    thread = threading.Thread(target=worker.run, args=[stop])
    with (
        HttpServer(settings, KafkaLog(settings.kafka)) as server,
        httpx.Client(base_url=server.address) as client,
    ):
        assert client.get("/readyz").status_code == 503  # no topic of windows yet
        thread.start()
        try:
            until(lambda: worker.not_ready is None)
            click = json.dumps({"user": "ann", "item": "i10", "ts": START_MS}).encode()
            with kafka_log.producer() as producer:
                producer.send(Outgoing(settings.clicks.topic, [b"ann"], [click]))
            until(lambda: client.get("/readyz").status_code == 200)
            until(lambda: client.get("/v1/list", params={"user": "ann"}).status_code == 200)
            until(lambda: client.get("/v1/window", params={"user": "ann"}).json()["events"])
            pushed = client.get("/v1/list", params={"user": "ann"}).json()
            computed = client.post("/v1/lists", json={"user": "ann"}).json()
            shown = [{"item": computed["items"][0]["item"], "place": 1}]
            reports = [{"decision": computed["id"], "items": shown}, {"decision": "elsewhere", "items": shown}]
            reported = client.post("/v1/impressions", json={"impressions": reports})
        finally:
            stop.set()
            thread.join(LIMIT_S)
    assert (reported.status_code, reported.json()) == (202, {"taken": 2, "known": 1})
    assert kafka_log.partitions(settings.impressions.topic) == 2
    with kafka_log.reader([settings.impressions.topic]) as reader:
        keys: list[bytes | None] = []
        while not reader.at_end():
            keys += [key for records in reader.poll(0.2, 10) for key in records.keys]
    assert {*keys} == {b"ann", None}
    assert pushed["event_ms"] == START_MS
    assert computed["items"] == pushed["items"]
    assert computed["interests"] == pushed["interests"]
