"""Settings of windows, lists, and the processes that serve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from annotated_types import Ge, Le
from pydantic import Field, ValidationError

from engine.errors import SettingsError
from engine.settings.section import PositiveFloat, PositiveInt, Section


class WindowSettings(Section):
    """Each user's sliding behaviour window."""

    topic: str = "windows"
    """The changelog, from which windows are restored: compacted, with as many partitions as `clicks.topic`."""
    length: Annotated[int, Ge(1), Le(1000)] = 100
    """L: events kept per user."""
    ttl_days: PositiveFloat | None = None
    """Events older than the user's newest by more than this are dropped; without it the last L are kept at any age."""
    max_users: PositiveInt = 1_000_000
    """Users whose windows are in this worker's memory at once; beyond it those idle longest are evicted."""
    standby: bool = False
    """Keep the windows of the other workers' partitions warm too, so that a takeover reads only the last few changes.
    Every worker then holds the users of the whole topic, for which `max_users` must have room."""
    on_return: Literal["restore", "new"] = "restore"
    """Window of an evicted user who comes back. restore: the last one, kept on local disk meanwhile (in the system's
    folder for temporary files, about a kilobyte a user). new: an empty one."""


class SnapshotSettings(Section):
    """Snapshots of the windows on local disk, so that a restart reads only the end of the changelog."""

    folder: Path | None = None
    """Folder for snapshots, on a disk that outlives the worker; without one the whole changelog is read at every
    assignment."""
    interval_s: PositiveFloat = 300.0
    """Time between two snapshots of a partition; an orderly stop writes all partitions."""
    max_age_h: PositiveFloat = 12.0
    """Older snapshots are not used. It must be less than the changelog's `delete.retention.ms`, or users who were
    forgotten meanwhile come back."""


class IndexSettings(Section):
    """The nearest-item index of a release."""

    kind: Literal["auto", "exact", "hnsw"] = "auto"
    exact_up_to: Annotated[int, Ge(0)] = 12_000
    """auto: a catalogue up to this size is searched exactly, a larger one by HNSW."""
    m: Annotated[int, Ge(2), Le(256)] = 16
    """Links of an item in each layer of the HNSW graph; more find more, and take more memory."""
    ef_construction: PositiveInt = 200
    """Candidates for links while the graph is built; more find more, and take longer to build."""
    ef_search: PositiveInt = 64
    """Candidates of a search in the graph, at least; more find more, and take longer. A release that is warmed gets as
    many as `target_recall` takes."""
    target_recall: Annotated[float, Ge(0.0), Le(1.0)] = 0.95
    """Share of the 40 nearest items that a search in the graph should find; 0 leaves `ef_search` as it is."""
    least_recall: Annotated[float, Ge(0.0), Le(1.0)] = 0.8
    """A release in whose graph a search finds less, however many candidates it keeps, is refused."""


ARM_SETTINGS: Final = ("count", "candidates_per_interest", "exclude_seen", "diversity", "push_away")
"""Settings of lists that an arm of an experiment may have of its own."""


class RecommendationSettings(Section):
    """The lists of recommendations."""

    topic: str = "recommendations"
    count: Annotated[int, Ge(1), Le(200)] = 20
    """N: items per list."""
    candidates_per_interest: Annotated[int, Ge(1), Le(500)] = 40
    """C: items searched near each interest, before merging and filtering."""
    exclude_seen: bool = True
    """Leave out items that are in the user's window."""
    diversity: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    """Weight of diversity in maximal marginal relevance: 0 ranks by score alone, towards 1 by unlikeness to the items
    ranked before."""
    push_away: Annotated[float, Ge(0.0)] = 0.5
    """Share of the range of scores that an item like one with a negative action loses, times the action's weight."""
    resend_unchanged: bool = True
    """Send a list with the same items as the user's last one, for its newer times and reasons. A worker sends the first
    list of each user after its start in any case."""
    stream_neighbours: Annotated[int, Ge(0), Le(1 << 24)] = 65_536
    """Items whose neighbours are counted from the clicks, so that those that came after training are listed too: some
    400 bytes each, and beyond this number those idle longest are dropped. 0: none. Only with a release that has a table
    of neighbours itself."""
    reasons: Annotated[int, Ge(0), Le(10)] = 3
    """M: clicks and searches named as the reasons of each interest."""

    def with_arm(self, changes: Mapping[str, bool | int | float]) -> "RecommendationSettings":
        """These settings with those of an experiment's arm in their place.

        Raises:
            SettingsError: one of them is unknown, cannot differ by user, or has a value that is out of range.
        """
        if unknown := [name for name in changes if name not in ARM_SETTINGS]:
            raise SettingsError(
                f"setting {unknown[0]!r} of an arm: expected one that lists of one user alone follow:"
                f" {', '.join(ARM_SETTINGS)}; others are the same for all users, in the settings file"
            )
        try:
            return RecommendationSettings.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise SettingsError(
                f"setting {name!r} of an arm: found {first['input']!r}, expected what recommendations.{name} takes:"
                f" {first['msg']}; `headrace settings` prints the value in force"
            ) from error


class ImpressionSettings(Section):
    """Reports of which items were shown to whom, as `POST /v1/impressions` of `headrace serve` takes them."""

    topic: str = "impressions"
    """Reports are put there, keyed by user."""
    accept: bool = False
    """Take reports. Without it nothing is written, and the topic is not created."""


class WorkerSettings(Section):
    """The worker's loop."""

    max_batch_clicks: Annotated[int, Ge(1), Le(100_000)] = 512
    """Largest number of clicks in a micro-batch."""
    poll_timeout_s: PositiveFloat = 0.1
    """Longest wait for clicks before the loop looks after its other work."""
    threads: PositiveInt = 1
    """Threads of onnxruntime and hnswlib."""


class TelemetrySettings(Section):
    """The HTTP server of /metrics, /healthz and /readyz, and the log."""

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 9108
    """0 takes any free port, which is logged."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """info: a line for each event of a session or release. debug: one for each batch, too, and ids of users."""
    log_format: Literal["text", "json"] = "text"
    """text: a line for people. json: one object a line, with `time`, `level`, `logger`, `message`, `deployment`, and
    `worker` where `kafka.static_member` names it."""
    traces: Literal["off", "otlp"] = "off"
    """otlp: spans of each batch, stage and list go to the collector that OpenTelemetry's own variables name
    (OTEL_EXPORTER_OTLP_ENDPOINT; OTEL_TRACES_SAMPLER for a share of them). Needs: pip install 'headrace[tracing]'."""


class ServeSettings(Section):
    """The HTTP server of `headrace serve`: lists at request time, and the live page."""

    host: str = "127.0.0.1"
    """Address to listen on; one that other machines reach needs `serve.keys_file`, or `serve.without_keys`."""
    port: Annotated[int, Ge(0), Le(65535)] = 9180
    """0 takes any free port, which is logged."""
    page: bool = True
    """Serve the live page at `/`."""
    partitions: list[Annotated[int, Ge(0)]] | None = None
    """Partitions of `windows.topic` whose users are answered; all of them without a list."""
    max_lists: PositiveInt = 200_000
    """Users whose last pushed list is held, some 2 kB each; beyond it those that changed longest ago are dropped."""
    max_batch: Annotated[int, Ge(1), Le(1000)] = 64
    """Largest number of requests that are computed together."""
    max_waiting: PositiveInt = 128
    """Requests that wait to be computed; more are turned away with 503."""
    max_decisions: PositiveInt = 10_000
    """Answers that can be continued with a next page; older ones are dropped."""
    max_streams: PositiveInt = 200
    """Streams of events that are open at once; more are turned away with 503."""
    max_connections: PositiveInt = 1_000
    """Connections that are open at once; beyond it the one that has been idle longest is closed."""
    max_request_kib: PositiveInt = 64
    """Largest body of a request; a larger one is refused with 413."""
    keys_file: Path | None = None
    """API keys, hashed, as `headrace serve-key` writes them; without a file nobody needs a key."""
    without_keys: bool = False
    """Answer everybody where other machines reach `serve.host` and there is no `serve.keys_file`."""
    rate_per_s: Annotated[float, Ge(0)] = 0.0
    """Requests a second of each key (of each address without keys), in bursts of two seconds' worth; 0: no limit."""
    cors_origins: list[str] = Field(default=[])
    """Origins whose pages may call the server from a browser, such as "https://shop.example"; "*" for any."""
    tls_certificate_file: Path | None = None
    """Certificate chain in PEM; with it the server speaks HTTPS alone."""
    tls_key_file: Path | None = None
    """Private key of the certificate, in PEM, where it is not in the same file."""
