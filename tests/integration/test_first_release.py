"""From an operator's topic of clicks to the first release, by two commands and without a file in between."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.releases import bundles
from engine.settings.loader import ENV_PREFIX
from engine.settings.sections import ReleaseSettings, Settings
from models.jobs.live_release import TopicStage

pytestmark = pytest.mark.kafka

LIMIT_S = 240.0
TRAINING = """
dimensions = 16
interests = 2
heads = 2
window_length = 10
epochs = 8
batch_sequences = 16
learning_rate = 1e-2
neighbours = false
"""


def send_clicks(log: KafkaLog, topic: str) -> None:
    """Two days of users who walk along one of two rings of items, in the operator's own fields."""
    rng, now_ms, rows = np.random.default_rng(0), time.time_ns() // 1_000_000, []
    for user in range(40):
        places = (rng.integers(15) + np.cumsum(rng.integers(1, 3, 24))) % 15 + 15 * (user % 2)
        rows += [
            (now_ms - (48 - 2 * hour) * 3_600_000 + user, user, place) for hour, place in enumerate(places.tolist())
        ]
    messages = [{"who": {"id": f"u{user}"}, "sku": f"i{place}", "at": time_ms} for time_ms, user, place in sorted(rows)]
    keys = [message["who"]["id"].encode() for message in messages]  # type: ignore[index]
    with log.producer() as producer:
        producer.send(Outgoing(topic, keys, [json.dumps(message).encode() for message in messages]))


def headrace(verb: str, environ: dict[str, str], *options: str) -> str:
    """The output of a verb in a process of its own, as the installed command would give it."""
    module = {"archive": "engine.cli.archive", "retrain": "models.cli.retrain"}[verb]
    command = [sys.executable, "-c", f"from {module} import {verb}; {verb}()", *options]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_archive_once_and_retrain_once_make_the_first_release(
    kafka_log: KafkaLog, kafka_bootstrap: str, topic_names: Callable[[str], str], tmp_path: Path
) -> None:
    clicks, releases = topic_names("shop.events"), topic_names("releases")
    kafka_log.ensure_topics([TopicSpec(clicks, 2)])
    send_clicks(kafka_log, clicks)
    (tmp_path / "training.toml").write_text(TRAINING)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)} | {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
        "HEADRACE_KAFKA__GROUP": topic_names("group"),
        "HEADRACE_CLICKS__TOPIC": clicks,
        "HEADRACE_CLICKS__FIELDS__USER": "who.id",
        "HEADRACE_CLICKS__FIELDS__ITEM": "sku",
        "HEADRACE_CLICKS__FIELDS__TIME": "at",
        "HEADRACE_RELEASES__TOPIC": releases,
        "HEADRACE_ARCHIVE__FOLDER": str(tmp_path / "archive"),
        "HEADRACE_RETRAIN__RELEASES": str(tmp_path / "releases"),
        "HEADRACE_RETRAIN__TRAINING": str(tmp_path / "training.toml"),
    }
    assert "960 new clicks" in headrace("archive", environ, "--once")
    outcome = json.loads(headrace("retrain", environ, "--once", "--json"))
    assert (outcome["outcome"], outcome["reasons"]) == ("published", [])
    settings = Settings(releases=ReleaseSettings(topic=releases))
    (announced,) = TopicStage(settings, kafka_log).registry().live()
    assert f"{announced.model}-{announced.version}" == outcome["release"]
    assert bundles.read(Path(announced.bundle)).manifest.items == 30
