"""Traces of the data path: nothing by default, or OpenTelemetry's spans for each batch and stage.

    producer's span ── traceparent header ─> click ... list ── traceparent header ─> reader's span
                                               └ span `headrace list`, linked to span `headrace batch` with its stages

A click that carries the header `traceparent` (W3C Trace Context) goes on with its trace: the list that follows it has a
span in it, and carries the header on. A batch has clicks of many traces, so it has one of its own, linked to theirs.
No span has a user's id.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Final

from engine.arrays import Clicks, Int64
from engine.errors import MissingExtraError
from engine.eventlog.base import Headers, Outgoing, Records
from engine.settings.sections import Settings

Stage = Callable[[str], AbstractContextManager[None]]
Place = tuple[int, int]
"""Partition and offset at which a click was first."""

TRACE_HEADERS: Final = ("traceparent", "tracestate")
_MOST_LINKS: Final = 128
"""Of a batch's span, OpenTelemetry's own limit."""


class Tracing:
    """No traces, at no cost."""

    def batch(self, polled: Sequence[Records]) -> AbstractContextManager[None]:
        """Opened around a batch of records."""
        del polled
        return nullcontext()

    def stage(self, measured: Stage) -> Stage:
        """Opened around each stage, with what measures it."""
        return measured

    def marked(self, lists: Outgoing, clicks: Clicks, newest: Int64) -> Outgoing:
        """Lists with the traces of their newest clicks; other records may come after them.

        Args:
            lists: the records.
            clicks: of the batch.
            newest: [lists] index of each list's newest click.
        """
        del clicks, newest
        return lists

    def close(self) -> None:
        """Send what is not sent yet."""


class SpanTracing(Tracing):
    """OpenTelemetry's spans.

    Args:
        provider: makes and exports spans (`opentelemetry.sdk.trace.TracerProvider`).
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("headrace")
        self._propagator = TraceContextTextMapPropagator()
        self._origins: Mapping[Place, Any] = {}
        """Contexts of the clicks of this batch that have one."""
        self._batch_span = trace.INVALID_SPAN

    @contextmanager
    def batch(self, polled: Sequence[Records]) -> Iterator[None]:
        """A span for the batch, linked to the traces of its clicks."""
        self._origins = dict(self._contexts(polled))
        spans = [self._trace.get_current_span(context).get_span_context() for context in self._origins.values()]
        links = [self._trace.Link(span) for span in spans[:_MOST_LINKS]]
        attributes = {"messaging.system": "kafka", "messaging.batch.message_count": sum(map(len, polled))}
        with self._tracer.start_as_current_span("headrace batch", links=links, attributes=attributes) as span:
            self._batch_span = span
            yield

    def stage(self, measured: Stage) -> Stage:
        """A span for each stage, below that of the batch."""

        @contextmanager
        def traced(name: str) -> Iterator[None]:
            with self._tracer.start_as_current_span(f"headrace {name}"), measured(name):
                yield

        return traced

    def marked(self, lists: Outgoing, clicks: Clicks, newest: Int64) -> Outgoing:
        """Lists with the header of a span in the trace of their newest click, where that has one."""
        if not self._origins:
            return lists
        partitions = clicks.partitions if clicks.first_partitions is None else clicks.first_partitions
        places = zip(partitions[newest].tolist(), clicks.offsets[newest].tolist(), strict=True)
        headers = [self._carried_on(place) for place in places]
        return replace(lists, headers=[*headers, *[()] * (len(lists) - len(headers))])

    def close(self) -> None:
        """Export what was not exported yet."""
        self._provider.shutdown()

    def _contexts(self, polled: Sequence[Records]) -> Iterator[tuple[Place, Any]]:
        for records in polled:
            for index, headers in enumerate(records.headers):
                carrier = {name: value.decode("ascii", "replace") for name, value in headers if name in TRACE_HEADERS}
                if carrier:
                    context = self._propagator.extract(carrier)
                    if self._trace.get_current_span(context).get_span_context().is_valid:
                        partition, offset = records.origin(index)
                        yield (partition.number, offset), context

    def _carried_on(self, place: Place) -> Headers:
        """The headers of a list whose newest click was at this place."""
        context = self._origins.get(place)
        if context is None:
            return ()
        link = self._trace.Link(self._batch_span.get_span_context())
        attributes = {"messaging.kafka.partition": place[0], "messaging.kafka.offset": place[1]}
        span = self._tracer.start_span("headrace list", context=context, links=[link], attributes=attributes)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span))
        span.end()
        return [(name, value.encode()) for name, value in carrier.items()]


def from_settings(settings: Settings) -> Tracing:
    """The tracing that `telemetry.traces` names.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """
    if settings.telemetry.traces == "off":
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            f"setting 'telemetry.traces' is {settings.telemetry.traces!r}, which needs OpenTelemetry ({error}):"
            " pip install 'headrace[tracing]', or set it to 'off'"
        ) from error
    names = {"service.name": "headrace", "service.namespace": settings.deployment}
    if settings.kafka.static_member:
        names["service.instance.id"] = settings.kafka.static_member
    provider = TracerProvider(resource=Resource.create(names))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return SpanTracing(provider)
