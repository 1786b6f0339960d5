"""Traces go on from a click's header to its list's, with a span for the batch and its stages; off they cost nothing."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from engine.errors import MissingExtraError
from engine.eventlog import topic_plan
from engine.eventlog.base import Headers, Outgoing
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.settings.sections import Settings
from engine.worker import tracing
from engine.worker.loop import Environment, Worker
from engine.worker.tracing import SpanTracing, Tracing
from producers.demo.bundled import DEMO_RELEASE
from tests.waiting import LIMIT_S, until

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs OpenTelemetry: pip install 'headrace[tracing]'")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SETTINGS = Settings.model_validate({"windows": {"max_users": 100}, "releases": {"path": DEMO_RELEASE}})


def served(traces: Tracing) -> dict[str, Headers]:
    """Headers of the lists of ann, whose click has a trace, of bob, who has none, and of eve, who has rubbish."""
    log, stop = MemoryLog(), threading.Event()
    log.ensure_topics([*topic_plan.whole(SETTINGS, 1)])
    headers: list[Headers] = [
        [("traceparent", f"00-{TRACE}-{SPAN}-01".encode()), ("other", b"x")],
        [],
        [("traceparent", b"\xff")],
    ]
    users = ["ann", "bob", "eve"]
    values: list[bytes | None] = [
        json.dumps({"user": user, "item": "i1", "ts": 1_700_000_000_000}).encode() for user in users
    ]
    log.producer().send(Outgoing("clicks", [user.encode() for user in users], values, headers=headers))
    worker = Worker(SETTINGS, log, Metrics(), environment=Environment(tracing=traces))
    thread = threading.Thread(target=worker.run, args=[stop], daemon=True)
    thread.start()
    lists: dict[str, Headers] = {}
    deadline_s = time.monotonic() + LIMIT_S
    with log.reader([SETTINGS.recommendations.topic]) as reader:
        while len(lists) < len(users) and time.monotonic() < deadline_s:
            for records in reader.poll(0.05, 10):
                lists |= dict(zip([(key or b"").decode() for key in records.keys], records.headers, strict=True))
    stop.set()
    thread.join(LIMIT_S)
    assert lists.keys() == set(users)
    return lists


def test_a_trace_goes_on_from_the_click_to_the_list() -> None:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    headers = served(SpanTracing(provider))
    spans: list[Any] = [*exporter.get_finished_spans()]
    (of_list,) = (span for span in spans if span.name == "headrace list")
    assert f"{of_list.context.trace_id:032x}" == TRACE
    assert f"{of_list.parent.span_id:016x}" == SPAN
    assert dict(headers["ann"]) == {"traceparent": f"00-{TRACE}-{of_list.context.span_id:016x}-01".encode()}
    assert [*headers["bob"], *headers["eve"]] == []

    (batch,) = (span for span in spans if span.name == "headrace batch")
    assert [f"{link.context.trace_id:032x}" for link in batch.links] == [TRACE]
    assert [link.context.span_id for link in of_list.links] == [batch.context.span_id]
    stages = {span.name for span in spans if span.parent and span.parent.span_id == batch.context.span_id}
    assert {"headrace decode", "headrace windows", "headrace rank", "headrace deliver"} <= stages
    assert batch.attributes["messaging.batch.message_count"] == 3
    assert "ann" not in " ".join(span.to_json() for span in spans)


def test_off_nothing_is_opened_or_added() -> None:
    off = tracing.from_settings(SETTINGS)
    assert type(off) is Tracing
    measured = Metrics().stage
    assert off.stage(measured) == measured
    assert {user: [*headers] for user, headers in served(off).items()} == {"ann": [], "bob": [], "eve": []}


def test_without_opentelemetry_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = Settings.model_validate({"telemetry": {"traces": "otlp"}})
    with pytest.raises(
        MissingExtraError, match=r"'telemetry\.traces' is 'otlp', which needs .*\[tracing\]', or set it"
    ):
        tracing.from_settings(settings)


class Collector(BaseHTTPRequestHandler):
    """Takes spans as OpenTelemetry's exporter sends them."""

    bodies: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        self.bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Says nothing."""


def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs: pip install 'headrace[tracing]'")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    settings = Settings.model_validate({"telemetry": {"traces": "otlp"}, "kafka": {"static_member": "w-0"}})
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        traces = tracing.from_settings(settings)
        with traces.batch([]):
            pass
        traces.close()
        until(lambda: bool(Collector.bodies))
        server.shutdown()
        thread.join()
    ((path, body),) = Collector.bodies
    assert path == "/v1/traces"
    assert b"headrace batch" in body
    assert b"headrace/clicks" in body
    assert b"w-0" in body
