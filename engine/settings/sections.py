"""The settings: a TOML file, replaced by the environment; unknown keys are refused, and all is read once.

    headrace run --config headrace.toml
    HEADRACE_KAFKA__BOOTSTRAP_SERVERS=broker:9092 headrace run      # section, two underscores, key

Names carry units (`_s` seconds, `_ms` milliseconds, `_bytes`). `headrace settings` prints every value in force, and
where it comes from.
"""

import datetime as dt
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.arrays import MAX_ACTIONS

MAX_ACTION_WEIGHT = 1000.0
PREFIXED: Final = {
    "kafka": {"group", "client_id"},
    "clicks": {"topic", "by_user_topic", "dead_letter_topic"},
    "windows": {"topic"},
    "recommendations": {"topic"},
    "releases": {"topic"},
}
"""By section, the names that `kafka.prefix` is put before."""
MAX_ACTION_BYTES = 255

TimeUnit = Literal["s", "ms", "us", "iso8601"]
PositiveInt = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]


class Section(BaseModel):
    """One table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    """The Kafka cluster, and the worker's membership in its consumer group."""

    bootstrap_servers: str = "127.0.0.1:9092"
    prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]*$", max_length=100)] = ""
    """Keeps deployments on one cluster apart: with it every topic, the group and the client id are named PREFIX.NAME,
    but for those that the settings name themselves."""
    group: str = "headrace"
    client_id: str = "headrace"
    deployment: str | None = None
    """The name that this deployment's windows carry on the changelog, where those of another are refused. Without it
    `kafka.prefix` (or else `kafka.group`) and `clicks.topic`: "shop/clicks"."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    """Name of the user; with OAUTHBEARER the id of this client at the identity provider."""
    sasl_password: str | None = Field(default=None, repr=False)
    """Its password, or the client's secret; better in a file."""
    sasl_password_file: Path | None = None
    """A file with the password alone, such as a container's secret. It is read again for every new client."""
    sasl_oauth_token_url: str | None = None
    """Token endpoint of the identity provider, for OAUTHBEARER (the client-credentials grant of OAuth 2)."""
    sasl_oauth_scope: str | None = None
    sasl_oauth_token_file: Path | None = None
    """In place of the endpoint: a file with a token that somebody else renews, such as a pod's service account."""
    ssl_ca_file: Path | None = None
    """Certificates of the authorities that signed the brokers', in PEM form; the system's where it is not set."""
    ssl_certificate_file: Path | None = None
    """This client's own certificate in PEM form, with those that lead to its authority."""
    ssl_key_file: Path | None = None
    """Its key in PEM form, where it is not in the same file."""
    ssl_key_password: str | None = Field(default=None, repr=False)
    ssl_key_password_file: Path | None = None
    connect_timeout_s: PositiveFloat = 15.0
    """Time limit for finding a broker."""
    first_connect_timeout_s: PositiveFloat = 60.0
    """A worker that never committed anything ends with exit code 2 when its login, the broker's certificate or a right
    was refused for this long. Once it has committed, it goes on trying."""
    session_timeout_s: PositiveFloat = 45.0
    """A worker whose heartbeats are missing this long loses its partitions to the others."""
    max_poll_interval_s: PositiveFloat = 300.0
    """A worker that does not poll for this long loses its partitions to the others."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """exactly_once: lists, windows and positions of a batch become visible together, or none of them.
    at_least_once: one after the other; a crash in between repeats lists (with the same ids) and loses none."""
    static_member: str | None = None
    """A name of this worker that is unique in the group and stays over restarts (a pod's). With it a restart within
    `session_timeout_s` moves no partition, and ends at once the transaction that the last run left open."""
    commit_timeout_s: PositiveFloat = 15.0
    """Time limit of a commit; after it the worker makes new clients and goes on from the last commit. A cluster notices
    a dead broker after nine seconds (its own default), which the clients survive by themselves."""
    transaction_timeout_s: PositiveFloat = 30.0
    """The broker aborts the open transaction of a dead worker after this time; until then no consumer can read the
    records after it."""
    commit_share: Annotated[float, Gt(0), Le(1)] = 0.1
    """Share of one core's time for commits: under load batches wait until they keep to it. 1 never waits."""
    stall_timeout_s: PositiveFloat = 15.0
    """A worker that receives none of the records there are for twice this time makes new clients."""
    delivery_timeout_s: PositiveFloat = 30.0
    """Time limit for a delivery by a producer outside workers (`headrace produce`)."""
    compression: Literal["none", "gzip", "lz4", "zstd", "snappy"] = "none"
    """lz4, zstd and snappy need the extra: pip install 'headrace[compression]'."""
    linger_ms: Annotated[int, Ge(0)] = 2
    """Time for which a producer collects records into one request; 0 sends one request a record."""

    @model_validator(mode="after")
    def _transactions_outlast_commits(self) -> Self:
        if self.transaction_timeout_s <= self.commit_timeout_s:
            raise ValueError(
                f"kafka.transaction_timeout_s is {self.transaction_timeout_s:g}, expected more than"
                f" kafka.commit_timeout_s ({self.commit_timeout_s:g}), or the broker aborts transactions that are being"
                " committed; raise the first or lower the second"
            )
        return self


class ClickFields(Section):
    r"""Paths of a click's fields in the user's own messages.

    A dot steps into a nested object, a step of digits into an array (`items.0.id`). A backslash makes a dot a part of a
    key (`'user\.id'` in TOML's single quotes), and digits a key. A field that may be absent from a message may also be
    null, empty or of a wrong type there, which is as good as absent.
    """

    user: str = "user"
    item: str = "item"
    lines: str = ""
    """An array, as of the lines of an order: a message that has it is one event for each of its elements, with the item
    of the element and all else of the message. A message without it, or with an empty one, has its item itself. An
    empty path: never read."""
    line_item: str = ""
    """Path of the item in an element of `lines`. An empty path: that of `item`."""
    search: str = "query"
    """Words that the user searched for: a message that has them and no item is a search. May be absent from a message.
    An empty path: never read."""
    time: str = "ts"
    """An empty path: the record's own Kafka timestamp is taken."""
    action: str = "action"
    """May be absent from a message: then `clicks.default_action` is taken. An empty path: never read."""
    event_id: str = "event_id"
    """May be absent from a message. A repeated id changes nothing. An empty path: never read."""
    consent: str = ""
    """A boolean; false keeps the click out of windows and lists. May be absent from a message, which
    `clicks.require_consent` decides about; anything but a boolean is no click. An empty path: never read."""
    type: str = ""
    """The type of an event, on a topic that has others than clicks (`clicks.skip_types`). May be absent from a message.
    An empty path: never read."""


class ClickSettings(Section):
    """The topic of clicks, and their schema."""

    topic: str = "clicks"
    create_topic: bool = False
    """Create the topic of clicks where it is missing, as `[topics]` says. It is yours, so that a worker only waits for
    it otherwise."""
    start: str = "earliest"
    """Where a new group begins: at the `earliest` record, at the `latest`, or at the first one appended from a time on
    (`2026-11-25T06:00:00Z`). A group that has begun goes on from its last commit."""
    rekey: bool = False
    """Put clicks onto `by_user_topic` first, keyed by user, and read them from there: for a stream in which the clicks
    of one user are in several partitions. All workers must say the same."""
    by_user_topic: Annotated[str, Field(validate_default=True)] = "clicks.by-user"
    """Clicks keyed by user, where `rekey` is true: a topic of this deployment alone. `windows.topic` has as many
    partitions."""
    dead_letter_topic: str = "clicks.dead"
    """Records that are no clicks are sent there, with the reason."""
    fields: ClickFields = ClickFields()
    time_unit: TimeUnit = "ms"
    """Seconds, milliseconds or microseconds since 1970, or ISO 8601 (also as `2024-05-01 10:00:00 UTC`, without the
    seconds, or a date alone). Times that name no zone are UTC."""
    earliest: Annotated[dt.date, Ge(dt.date(1970, 1, 1))] = dt.date(1990, 1, 1)
    """A click before this day (UTC) goes to the dead letters: a time in the wrong unit is in 1970."""
    skip_types: list[str] = []
    """Types of events that are no clicks, by `clicks.fields.type`: they are left out and counted
    (`headrace_dropped_events_total{reason="skipped_type"}`), and are no dead letters."""
    pseudonym_key_file: Path | None = None
    """A file with a key of 32 bytes or more, by which a keyed hash takes the place of every user's id in windows, lists
    and whatever comes of them. Without a file, ids as they are. Another key makes every user a new one."""
    require_consent: bool = False
    """Take a click without consent, or with null in its place, for one that is refused. Records of which the consent
    cannot be read then go to the dead letters without their value."""
    on_refusal: Literal["keep", "forget"] = "keep"
    """What becomes of a user's window when a click says that consent is refused (false, not merely absent). keep: that
    click is left out, as a flag on one click, of one page or device, is no request to delete, and deletion cannot be
    undone. forget: window, changelog entry and last list are deleted, as by a request to forget the user."""
    actions: Annotated[dict[str, float], Field(min_length=1, max_length=MAX_ACTIONS)] = {
        "view": 1.0,
        "pv": 1.0,
        "search": 1.0,
        "like": 2.0,
        "fav": 2.0,
        "cart": 2.0,
        "buy": 3.0,
        "dislike": -1.0,
        "return": -1.0,
    }
    """Weight of each action. Above 0 the event counts that many times in the attention, 0 only marks the item as seen,
    and below 0 it pushes away items like it."""
    default_action: Annotated[str, Field(validate_default=True)] = "view"
    """Action of a click without one, or with one that `clicks.actions` does not name."""
    search_action: str = "search"
    """Action of a search, whatever action its message has."""
    max_future_s: PositiveFloat = 3600.0
    """A click with a time later than now by more than this goes to the dead letters."""
    max_bytes: PositiveInt = 1_000_000
    """A larger message goes to the dead letters without being parsed."""
    max_id_bytes: Annotated[int, Ge(1), Le(65_535)] = 512
    """Largest size of a user's id, an item's id or a search, in bytes of UTF-8."""

    @field_validator("start", mode="before")
    @classmethod
    def _is_a_place_in_time(cls, start: object) -> object:
        if isinstance(start, dt.date):  # TOML has dates and times of its own
            return start.isoformat()
        if isinstance(start, str) and start not in {"earliest", "latest"}:
            try:
                dt.datetime.fromisoformat(start)
            except ValueError:
                raise ValueError(
                    f"found {start!r}, expected earliest, latest or a time as 2026-11-25T06:00:00Z"
                ) from None
        return start

    @field_validator("by_user_topic")
    @classmethod
    def _is_another_topic(cls, by_user_topic: str, info: ValidationInfo) -> str:
        if info.data.get("rekey") and by_user_topic == info.data.get("topic"):
            raise ValueError(
                f"found {by_user_topic!r}, expected another topic than clicks.topic, or clicks would go round for ever;"
                " name another one"
            )
        return by_user_topic

    @field_validator("actions")
    @classmethod
    def _finite(cls, actions: dict[str, float]) -> dict[str, float]:
        for name, weight in actions.items():
            if not -MAX_ACTION_WEIGHT <= weight <= MAX_ACTION_WEIGHT:
                raise ValueError(
                    f"weight of action {name!r} is {weight}, expected -{MAX_ACTION_WEIGHT:g} to {MAX_ACTION_WEIGHT:g}"
                )
            if len(name.encode()) > MAX_ACTION_BYTES:
                raise ValueError(f"action {name!r} has {len(name.encode())} bytes, expected {MAX_ACTION_BYTES} at most")
        return actions

    @field_validator("default_action")
    @classmethod
    def _has_a_weight(cls, default: str, info: ValidationInfo) -> str:
        actions = info.data.get("actions", {default: 1.0})  # not there where they were refused themselves
        if default not in actions:
            raise ValueError(f"found {default!r}, expected one of clicks.actions: {', '.join(actions)}")
        return default


class TopicSettings(Section):
    """The topics that Headrace creates: their size, and how long they keep records. Existing ones stay as they are."""

    partitions: PositiveInt | None = None
    """Partitions of the topic of clicks, which those of lists and windows follow; the broker's default without one."""
    replication: PositiveInt | None = None
    """Replicas of each partition; the broker's default without a number."""
    click_retention_h: PositiveFloat | None = None
    """Age at which clicks are deleted; the broker's default without one."""
    dead_letter_retention_h: PositiveFloat | None = 336.0
    """Age at which dead letters are deleted, which hold what users did."""


class ItemFields(Section):
    """Names of the columns of an items file. An empty name: never read. All columns but `item` may be absent."""

    item: Annotated[str, Field(min_length=1)] = "item"
    title: str = "title"
    category: str = "category"
    genres: str = "genres"
    tags: str = "tags"
    brand: str = "brand"
    department: str = "department"
    price: str = "price"
    vector: str = "vector"
    """A vector of the item's text, image or sound, from a model of the user's own."""


class ItemSettings(Section):
    """The content of items."""

    fields: ItemFields = ItemFields()
    separator: Annotated[str, Field(min_length=1)] = "|"
    """Separates several values, or the numbers of a vector, in one field of text."""


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
    exact_up_to: Annotated[int, Ge(0)] = 5_000
    """auto: a catalogue up to this size is searched exactly, a larger one by HNSW."""
    m: Annotated[int, Ge(2), Le(256)] = 16
    """Links of an item in each layer of the HNSW graph; more find more, and take more memory."""
    ef_construction: PositiveInt = 200
    """Candidates for links while the graph is built; more find more, and take longer to build."""
    ef_search: PositiveInt = 64
    """Candidates of a search in the graph; more find more, and take longer."""


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
    reasons: Annotated[int, Ge(0), Le(10)] = 3
    """M: clicks and searches named as the reasons of each interest."""


class ReleaseSettings(Section):
    """The sources of releases."""

    topic: str = "releases"
    model: str = "two-hop"
    """Name of the model whose releases are served."""
    folder: Path | None = None
    """A folder to watch for releases, too (`headrace publish --folder`); the newest announcement there or on the topic
    counts, and when one of the two cannot be read the other goes on."""
    path: Path | None = None
    """A bundle to serve by until a release is announced."""
    poll_interval_s: PositiveFloat = 1.0
    """Time between two looks for new announcements."""
    load_timeout_s: PositiveFloat = 120.0
    """Time limit for loading a release in a child process first, where its graphs run once; a slower one is refused."""
    load_memory_gib: PositiveFloat = 8.0
    """Address space of that child process; a release that needs more is refused."""


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


class Settings(Section):
    """All settings, by section."""

    kafka: KafkaSettings = KafkaSettings()
    clicks: ClickSettings = ClickSettings()
    topics: TopicSettings = TopicSettings()
    items: ItemSettings = ItemSettings()
    windows: WindowSettings = WindowSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    index: IndexSettings = IndexSettings()
    recommendations: RecommendationSettings = RecommendationSettings()
    releases: ReleaseSettings = ReleaseSettings()
    worker: WorkerSettings = WorkerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def deployment(self) -> str:
        """The name that this deployment's windows carry (`kafka.deployment`)."""
        kafka = self.kafka
        return kafka.deployment or f"{kafka.prefix or kafka.group}/{self.clicks.topic}"

    @model_validator(mode="after")
    def _with_prefix(self) -> Self:
        """Put `kafka.prefix` before the names that are at their defaults."""
        if self.kafka.prefix:
            for section, keys in PREFIXED.items():
                values: Section = getattr(self, section)
                names = {key: f"{self.kafka.prefix}.{getattr(values, key)}" for key in keys - values.model_fields_set}
                object.__setattr__(self, section, values.model_copy(update=names))
        return self
