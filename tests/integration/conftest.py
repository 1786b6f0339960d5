"""A real Kafka for the tests, started once for the whole run; the contract tests import these fixtures too."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from engine import contract
from engine.eventlog.kafka import KafkaLog
from engine.releases import probe
from engine.settings.sections import KafkaSettings, ReleaseSettings
from tests.integration import broker


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Bootstrap servers of a real Kafka: the one KAFKA_BOOTSTRAP names, else one started from KAFKA_HOME, else skip."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        return given
    return broker.shared(_kafka_home(), tmp_path_factory.getbasetemp() / "kafka").bootstrap


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """Where the tests that need a broker of their own start it from, else skip."""
    return _kafka_home()


@pytest.fixture(scope="session")
def secure_cluster(tmp_path_factory: pytest.TempPathFactory) -> broker.Cluster:
    """A broker with TLS, logins and ACLs, started once for the whole run, else skip."""
    return broker.shared_secure(_kafka_home(), tmp_path_factory.getbasetemp() / "secure-kafka")


@pytest.fixture(scope="session", autouse=True)
def one_trial_of_each_release() -> Iterator[None]:
    """Hundreds of workers are started in this process, and a trial load costs more than all else that most of them do.

    A release that passed is known by its manifest, which has the checksums of its files; each load verifies them.
    """
    passed: set[bytes] = set()
    check = probe.check

    def check_once(folder: Path, settings: ReleaseSettings, stop: threading.Event) -> None:
        path = folder / contract.MANIFEST_FILE
        manifest = path.read_bytes() if path.is_file() else b""
        if manifest not in passed:
            check(folder, settings, stop)
            passed.add(manifest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "check", check_once)
        yield


@pytest.fixture
def kafka_settings(kafka_bootstrap: str) -> KafkaSettings:
    """Settings for the broker of the tests, with short time limits."""
    return KafkaSettings(
        bootstrap_servers=kafka_bootstrap, connect_timeout_s=10.0, session_timeout_s=2.0, delivery_timeout_s=10.0
    )


@pytest.fixture
def kafka_log(kafka_settings: KafkaSettings) -> KafkaLog:
    """The event log on the broker of the tests."""
    return KafkaLog(kafka_settings)


@pytest.fixture
def topic_names() -> Callable[[str], str]:
    """Makes names of topics and groups unique to the test: the same name in a test gives the same again."""
    suffix = uuid4().hex[:8]
    return lambda name: f"{name}-{suffix}"


def _kafka_home() -> Path:
    home = os.environ.get("KAFKA_HOME")
    if reason := broker.missing(home):
        pytest.skip(reason)
    return Path(str(home)).resolve()
