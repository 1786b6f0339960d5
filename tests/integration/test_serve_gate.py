"""Who may ask the HTTP server, how often, and clients that only want to be in its way."""

import os
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from engine.cli.serve_key import serve_key
from engine.errors import SettingsError
from engine.eventlog.memory.log import MemoryLog
from engine.view import api_keys, connections
from engine.view.http_server import HttpServer
from tests.integration.certificates import Authority
from tests.integration.served import Served, serving, settings_for
from tests.waiting import LIMIT_S, until


def make_key(path: Path, *arguments: str) -> dict[str, str]:
    result = CliRunner().invoke(serve_key, [*arguments, "--file", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {"Authorization": f"Bearer {result.stdout.strip()}"}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def admin(keys_file: Path) -> dict[str, str]:
    return make_key(keys_file, "operator", "--scope", "admin")


@pytest.fixture(scope="module")
def guarded(tiny_release: Path, keys_file: Path, admin: dict[str, str]) -> Iterator[Served]:
    with serving(tiny_release, admin, keys_file=keys_file, max_request_kib=4, max_streams=2) as running:
        running.click(("ann", "i10"))
        yield running


def ask(running: Served, path: str, headers: dict[str, str]) -> httpx.Response:
    return httpx.get(running.server.address + path, headers=headers)


def test_a_key_opens_what_its_scope_names(guarded: Served, keys_file: Path) -> None:
    assert ask(guarded, "/v1/list?user=ann", {}).status_code == 401
    assert ask(guarded, "/v1/list?user=ann", {"Authorization": "Bearer headrace_wrong"}).status_code == 401
    assert ask(guarded, "/healthz", {}).status_code == 200
    keys = {scope: make_key(keys_file, f"of-{scope}", "--scope", scope) for scope in api_keys.SCOPES}
    until(lambda: ask(guarded, "/v1/popular", keys["admin"]).status_code == 200)
    paths = ("/v1/list?user=ann", "/v1/impressions", "/v1/window?user=ann", "/metrics")
    statuses = {scope: [ask(guarded, path, key).status_code for path in paths] for scope, key in keys.items()}
    assert statuses == {
        "read": [200, 403, 403, 403],
        "report": [403, 405, 403, 403],
        "explain": [200, 403, 200, 403],
        "admin": [200, 405, 200, 200],
    }


def test_the_file_has_hashes_alone_and_nobody_else_reads_it(keys_file: Path, admin: dict[str, str]) -> None:
    secret = admin["Authorization"].removeprefix("Bearer ")
    assert secret not in keys_file.read_text()
    assert api_keys.read(keys_file)["operator"].hash == api_keys.hash_of(secret)
    assert keys_file.stat().st_mode & 0o077 == 0


def test_a_key_has_a_rate_and_is_told_when_there_is_more(guarded: Served, keys_file: Path) -> None:
    key = make_key(keys_file, "slow", "--rate", "0.001")
    until(lambda: ask(guarded, "/v1/popular", key).status_code == 200)
    refused = ask(guarded, "/v1/popular", key)
    assert refused.status_code == 429
    assert refused.json()["detail"] == "more than 0.001 requests a second"
    assert 0 < int(refused.headers["retry-after"]) <= 1000


def test_a_request_that_is_too_large_or_no_json_is_refused(guarded: Served) -> None:
    answer = guarded.post("/v1/rank", {"user": "ann", "items": ["x" * 500] * 20})
    assert (answer.status_code, answer.json()["status"]) == (413, 413)
    form = guarded.client.post("/v1/lists", data={"user": "ann"})
    assert (form.status_code, form.json()["field"]) == (415, "Content-Type")
    broken = guarded.client.post("/v1/lists", content=b'{"user":', headers={"Content-Type": "application/json"})
    assert broken.status_code == 400


def test_streams_are_bounded(guarded: Served) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(guarded.client.stream("GET", "/v1/events", params={"user": "ann"}))
        until(lambda: "headrace_streams 2.0" in guarded.get("/metrics").text)
        answer = guarded.get("/v1/events", user="ann")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_without_keys_only_this_machine_is_answered_and_only_by_its_own_name(tiny_release: Path) -> None:
    with pytest.raises(SettingsError, match="headrace serve-key"):
        HttpServer(settings_for(tiny_release, host="0.0.0.0"), MemoryLog())  # noqa: S104 - that is the mistake
    with serving(tiny_release, cors_origins=["https://shop.example"]) as running:
        rebound = ask(running, "/v1/popular", {"Host": "evil.example"})
        assert (rebound.status_code, rebound.json()["field"]) == (403, "Host")
        assert ask(running, "/v1/popular", {"Host": f"localhost:{running.server.port}"}).status_code == 200
        allowed = ask(running, "/v1/popular", {"Origin": "https://shop.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
        other = ask(running, "/v1/popular", {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


HALVES = {
    "nothing": b"",
    "half a head": b"GET /v1/popular HTTP/1.1\r\nHost: localhost\r\nX-",
    "half a body": (
        b"POST /v1/lists HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 99\r\n\r\n{"user'
    ),
    "rubbish": os.urandom(64),
}


def test_clients_that_never_finish_keep_nobody_out_and_are_closed(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_HEAD_LIMIT_S", 0.5)
    monkeypatch.setattr("engine.view.gate._BODY_LIMIT_S", 0.5)
    with serving(tiny_release, max_connections=40) as running, ExitStack() as stack:
        sockets = []
        for number in range(120):
            connection = socket.create_connection(("127.0.0.1", running.server.port), timeout=LIMIT_S)
            sockets.append(stack.enter_context(connection))
            connection.sendall([*HALVES.values()][number % len(HALVES)])
        for _ in range(20):
            assert ask(running, "/v1/popular", {}).status_code == 200
        deadline_s = time.monotonic() + LIMIT_S
        for connection in sockets:
            connection.settimeout(max(0.1, deadline_s - time.monotonic()))
            closed_by_peer = False
            while not closed_by_peer:
                try:
                    closed_by_peer = not connection.recv(4096)
                except ConnectionError:
                    closed_by_peer = True
        assert ask(running, "/v1/popular", {}).status_code == 200


def test_more_connections_than_descriptors_are_survived(tiny_release: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(tiny_release, max_connections=100_000) as running, ExitStack() as stack:
        limit = len([*Path("/proc/self/fd").iterdir()]) + 150
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        opened: list[socket.socket] = []
        with pytest.raises(OSError, match="Too many open files"):
            opened.extend(iter(lambda: socket.create_connection(("127.0.0.1", running.server.port), 10), None))
        for connection in opened:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        until(lambda: _answers(running))


def _answers(running: Served) -> bool:
    try:
        return ask(running, "/v1/popular", {}).status_code == 200
    except httpx.TransportError:
        return False


def test_https_by_setting(tiny_release: Path, tmp_path: Path) -> None:
    authority = Authority.new("an authority of one's own")
    trusted, own = authority.write(tmp_path / "authority.pem"), authority.issue("localhost", tmp_path / "server.pem")
    settings = settings_for(tiny_release, tls_certificate_file=own, tls_key_file=own)
    log = MemoryLog()
    with HttpServer(settings, log) as server:
        context = ssl.create_default_context(cafile=str(trusted))
        with httpx.Client(base_url=server.address.replace("127.0.0.1", "localhost"), verify=context) as client:
            assert server.address.startswith("https://")
            assert client.get("/healthz").status_code == 200
    broken = settings_for(tiny_release, tls_certificate_file=tmp_path / "none.pem")
    with pytest.raises(SettingsError, match=r"serve\.tls_certificate_file"):
        HttpServer(broken, log)
