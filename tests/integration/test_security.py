"""A secured Kafka: logins, certificates of clients, tokens, secrets in files, and rights."""

import base64
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from engine.errors import BrokerUnavailableError, SettingsError
from engine.eventlog import acl_plan, topic_plan
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.metrics import Metrics
from engine.settings.sections import KafkaSettings, Settings
from engine.worker.loop import Worker
from producers.demo.bundled import DEMO_RELEASE
from tests.integration import broker
from tests.integration.certificates import Authority
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.kafka
TOPIC = "security"
KNOWN, UNKNOWN = "known", "unknown"  # secrets of the client at its identity provider


@pytest.fixture
def plain(secure_cluster: broker.Cluster) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=secure_cluster.bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username=broker.USER,
        ssl_ca_file=secure_cluster.ca_file,
        connect_timeout_s=5.0,
    )


@pytest.fixture
def mutual(secure_cluster: broker.Cluster, tmp_path: Path) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=secure_cluster.mutual_bootstrap,
        security_protocol="SSL",
        ssl_ca_file=secure_cluster.ca_file,
        ssl_certificate_file=secure_cluster.authority.issue(broker.SERVICE, tmp_path / "client.pem"),
        connect_timeout_s=5.0,
    )


def roundtrip(settings: KafkaSettings) -> None:
    """Create a topic, write to it and read from it."""
    log = KafkaLog(settings)
    log.ensure_topics([TopicSpec(TOPIC)])
    with log.producer() as producer:
        producer.send(Outgoing(TOPIC, [b"u"], [b"click"]))
    with log.reader([TOPIC]) as reader:
        assert reader.poll(LIMIT_S, 10)


def changed(settings: KafkaSettings, **changes: object) -> KafkaSettings:
    return settings.model_copy(update=changes)


def test_a_password_in_a_file_and_one_that_is_changed_there(plain: KafkaSettings, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{broker.PASSWORD}\n")
    settings = changed(plain, sasl_password_file=tmp_path / "password")
    roundtrip(settings)
    log = KafkaLog(settings)
    (tmp_path / "password").write_text("wrong")
    with pytest.raises(BrokerUnavailableError, match="refused the login of 'app'"):
        log.partitions(TOPIC)
    (tmp_path / "password").unlink()  # while it is being replaced, the last one counts
    with pytest.raises(BrokerUnavailableError, match="refused the login of 'app'"):
        log.partitions(TOPIC)
    (tmp_path / "password").write_text(broker.PASSWORD)
    assert log.partitions(TOPIC) == 1


def test_a_certificate_of_the_client(mutual: KafkaSettings) -> None:
    roundtrip(mutual)


def test_a_certificate_whose_key_is_encrypted(
    secure_cluster: broker.Cluster, mutual: KafkaSettings, tmp_path: Path
) -> None:
    certificate = secure_cluster.authority.issue(broker.SERVICE, tmp_path / "encrypted.pem", b"of-the-key")
    (tmp_path / "password").write_text("of-the-key")
    roundtrip(changed(mutual, ssl_certificate_file=certificate, ssl_key_password_file=tmp_path / "password"))
    with pytest.raises(SettingsError, match=r"kafka\.ssl_certificate_file.*cannot be used.*kafka\.ssl_key_password"):
        KafkaLog(changed(mutual, ssl_certificate_file=certificate, ssl_key_password=UNKNOWN))


def test_a_client_without_a_certificate_is_told_to_show_one(mutual: KafkaSettings) -> None:
    with pytest.raises(
        BrokerUnavailableError, match=r"wants a certificate of this client; set kafka\.ssl_certificate_file"
    ):
        KafkaLog(changed(mutual, ssl_certificate_file=None)).partitions(TOPIC)


def test_a_certificate_of_another_authority_is_refused_by_name(mutual: KafkaSettings, tmp_path: Path) -> None:
    stranger = Authority.new("strangers").issue(broker.SERVICE, tmp_path / "stranger.pem")
    with pytest.raises(BrokerUnavailableError, match=r"refused the certificate in .*kafka\.ssl_certificate_file"):
        KafkaLog(changed(mutual, ssl_certificate_file=stranger)).partitions(TOPIC)


class Provider(BaseHTTPRequestHandler):
    """An identity provider that gives unsigned tokens to whoever knows the secret."""

    requests: ClassVar[list[dict[str, list[str]]]] = []
    timeout = 5.0

    def do_POST(self) -> None:
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.requests.append(form)
        allowed = form["client_secret"] == [KNOWN]
        body = json.dumps({"access_token": token(), "expires_in": 300} if allowed else {"error": "invalid_client"})
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_args: object) -> None:
        """Says nothing."""


def token() -> str:
    now_s = int(time.time())
    parts = [{"alg": "none"}, {"sub": broker.SERVICE, "iat": now_s, "exp": now_s + 300}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return f"{'.'.join(coded)}."


@pytest.fixture
def provider() -> Iterator[str]:
    Provider.requests.clear()
    with HTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()
        thread.join()


def test_tokens_of_an_identity_provider(plain: KafkaSettings, provider: str) -> None:
    settings = changed(
        plain,
        sasl_mechanism="OAUTHBEARER",
        sasl_oauth_token_url=provider,
        sasl_oauth_scope="kafka",
        sasl_username="headrace",
        sasl_password=KNOWN,
    )
    roundtrip(settings)
    expected = {"grant_type": "client_credentials", "client_id": "headrace", "client_secret": KNOWN, "scope": "kafka"}
    assert Provider.requests == [{name: [value] for name, value in expected.items()}]  # one for all clients


def test_a_provider_that_refuses_or_is_away(plain: KafkaSettings, provider: str) -> None:
    oauth = changed(
        plain, sasl_mechanism="OAUTHBEARER", sasl_oauth_token_url=provider, sasl_password=UNKNOWN, sasl_username="me"
    )
    with pytest.raises(BrokerUnavailableError, match=r"answered 401.*check kafka\.sasl_username") as caught:
        KafkaLog(oauth).partitions(TOPIC)
    assert UNKNOWN not in str(caught.value)
    address = "http://127.0.0.1:9/token"  # where nobody listens
    away = changed(oauth, sasl_oauth_token_url=address)
    with pytest.raises(BrokerUnavailableError, match=r"gave no token .*refused.*check kafka\.sasl_oauth_token_url"):
        KafkaLog(away).partitions(TOPIC)


def test_tokens_in_a_file(plain: KafkaSettings, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{token()}\n")
    settings = changed(
        plain, sasl_mechanism="OAUTHBEARER", sasl_username=None, sasl_oauth_token_file=tmp_path / "token"
    )
    roundtrip(settings)


def test_a_worker_with_exactly_the_rights_that_are_printed_serves(
    secure_cluster: broker.Cluster, plain: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    admin = changed(plain, sasl_password=broker.PASSWORD)
    own = {"sasl_mechanism": "PLAIN", "sasl_username": broker.WORKER, "sasl_password": broker.WORKER_PASSWORD}
    settings = Settings.model_validate(
        {
            "kafka": plain.model_dump(exclude_unset=True) | own | {"prefix": "rights", "session_timeout_s": 6.0},
            "windows": {"max_users": 100},
            "releases": {"path": DEMO_RELEASE},
        }
    )
    log = KafkaLog(admin)
    log.ensure_topics([*topic_plan.whole(settings, 2)])
    for arguments in acl_plan.arguments([*acl_plan.worker(settings)], f"User:{broker.WORKER}"):
        secure_cluster.set_acls(arguments)
    stop = threading.Event()
    thread = threading.Thread(target=Worker(settings, KafkaLog(settings.kafka), Metrics()).run, args=[stop])
    thread.start()
    try:
        with log.producer() as clicks:
            click = {"user": "ann", "item": "i1", "ts": round(time.time() * 1000)}
            clicks.send(Outgoing(settings.clicks.topic, [b"ann", b"u"], [json.dumps(click).encode(), b"no click"]))
        for topic in (settings.recommendations.topic, settings.clicks.dead_letter_topic, settings.windows.topic):
            assert first_record(log, topic)
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert [record.message for record in caplog.records if "uthoriz" in record.message] == []


def first_record(log: KafkaLog, topic: str) -> bytes | None:
    """The first record that arrives on a topic."""
    deadline_s = time.monotonic() + LIMIT_S
    with log.reader([topic]) as reader:
        while time.monotonic() < deadline_s:
            for records in reader.poll(0.2, 1):
                return records.values[0]
    return None
