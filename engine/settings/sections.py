"""The settings: one TOML file, environment over file, unknown keys refused, read once.

    headrace run --config headrace.toml
    HEADRACE_KAFKA__BOOTSTRAP_SERVERS=broker:9092 headrace run      # section, two underscores, key

Units stand in the names (`_s` seconds, `_ms` milliseconds, `_bytes`). `headrace settings` shows what is in force and
where each value came from.
"""

import datetime as dt
from pathlib import Path
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.arrays import MAX_ACTIONS

MAX_ACTION_WEIGHT = 1000.0
MAX_ACTION_BYTES = 255

TimeUnit = Literal["s", "ms", "us", "iso8601"]
PositiveInt = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]


class Section(BaseModel):
    """One table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    """The broker and the worker's place in its consumer group."""

    bootstrap_servers: str = "127.0.0.1:9092"
    group: str = "headrace"
    client_id: str = "headrace"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: str | None = Field(default=None, repr=False)
    ssl_ca_file: Path | None = None
    connect_timeout_s: PositiveFloat = 15.0
    """How long to look for a broker before giving up with the reason."""
    session_timeout_s: PositiveFloat = 45.0
    """A worker that is silent this long loses its partitions to the others."""
    max_poll_interval_s: PositiveFloat = 300.0
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """exactly_once: the lists, windows and positions of a batch become visible together or not at all.
    at_least_once: one after the other; a crash in between repeats lists (by the same ids) and loses none."""
    static_member: str | None = None
    """A name of this worker that no other in the group has, kept over restarts (a pod's). With it a restart within
    `session_timeout_s` moves no partition, and ends at once what the last run left open."""
    commit_timeout_s: PositiveFloat = 15.0
    """A commit that takes longer ends in new clients and a restart from the last commit. A cluster needs nine seconds
    to notice that a broker is dead (its own default), and the clients get over that by themselves."""
    transaction_timeout_s: PositiveFloat = 30.0
    """When the broker aborts what a dead worker left open; until then nobody can read what came behind it."""
    commit_share: Annotated[float, Gt(0), Le(1)] = 0.1
    """Of one core, what commits may take: under load batches wait for one another so long. 1 never waits."""
    stall_timeout_s: PositiveFloat = 15.0
    """A worker that receives nothing for twice as long, though there is something, starts its clients anew."""
    delivery_timeout_s: PositiveFloat = 30.0
    """How long producers outside a worker (`headrace produce`) try."""
    compression: Literal["none", "gzip", "lz4", "zstd", "snappy"] = "none"
    """The last three need the extra: pip install 'headrace[compression]'."""
    linger_ms: Annotated[int, Ge(0)] = 2
    """0 would mean one request per record."""

    @model_validator(mode="after")
    def _transactions_outlast_commits(self) -> Self:
        if self.transaction_timeout_s <= self.commit_timeout_s:
            raise ValueError(
                f"kafka.transaction_timeout_s is {self.transaction_timeout_s:g}, expected more than"
                f" kafka.commit_timeout_s ({self.commit_timeout_s:g}): the broker would abort what is being committed;"
                " raise the first or lower the second"
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
    search: str = "query"
    """The words that a user searched for: a message that has them and no item is a search. May be absent from a
    message. Empty: never read."""
    time: str = "ts"
    """Empty: take the record's own Kafka timestamp."""
    action: str = "action"
    """May be absent from a message: then `clicks.default_action` holds. Empty: never read."""
    event_id: str = "event_id"
    """May be absent from a message. A repeated id changes nothing. Empty: never read."""
    consent: str = ""
    """A boolean; false keeps the click out of windows and lists. May be absent from a message, which
    `clicks.require_consent` decides about; anything but a boolean is no click. Empty: never read."""


class ClickSettings(Section):
    """The topic of clicks, and how to read one."""

    topic: str = "clicks"
    dead_letter_topic: str = "clicks.dead"
    fields: ClickFields = ClickFields()
    time_unit: TimeUnit = "ms"
    """Seconds, milliseconds or microseconds since 1970, or ISO 8601 (also as `2024-05-01 10:00:00 UTC`, without the
    seconds, or a date alone). Times that name no zone are UTC."""
    earliest: Annotated[dt.date, Ge(dt.date(1970, 1, 1))] = dt.date(1990, 1, 1)
    """A click before this day (UTC) goes to the dead letters: a time in the wrong unit is in 1970."""
    require_consent: bool = False
    """Take a click without consent, or with null in its place, for one that is refused. Records of which the consent
    cannot be read then go to the dead letters without their value."""
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
    """Weight of each action: above 0 it counts that many times in the attention, 0 only marks the item as seen, below 0
    it pushes away. An action not named here counts like `default_action`."""
    default_action: Annotated[str, Field(validate_default=True)] = "view"
    search_action: str = "search"
    """What a search counts as, whatever its message says."""
    max_future_s: PositiveFloat = 3600.0
    """A click later than now by more than this goes to the dead letters."""
    max_bytes: PositiveInt = 1_000_000
    """A larger message goes to the dead letters unread."""
    max_id_bytes: Annotated[int, Ge(1), Le(65_535)] = 512
    """Longest user or item id, and the longest search, in bytes of UTF-8."""

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


class ItemFields(Section):
    """Where an item's content lies in the user's own items file. Empty: never read; all but `item` may be absent."""

    item: Annotated[str, Field(min_length=1)] = "item"
    title: str = "title"
    category: str = "category"
    genres: str = "genres"
    tags: str = "tags"
    brand: str = "brand"
    department: str = "department"
    price: str = "price"
    vector: str = "vector"
    """Numbers that say what a text, picture or sound is like, from a model of the user's own."""


class ItemSettings(Section):
    """What is known of the items, and how to read it."""

    fields: ItemFields = ItemFields()
    separator: Annotated[str, Field(min_length=1)] = "|"
    """Stands between several values (or the numbers of a vector) in one field of text."""


class WindowSettings(Section):
    """Each user's sliding behaviour window."""

    topic: str = "windows"
    """The changelog, from which windows are restored: compacted, as many partitions as `clicks.topic`."""
    length: Annotated[int, Ge(1), Le(1000)] = 100
    """L: events kept per user."""
    ttl_days: PositiveFloat | None = None
    """Events older than the user's newest by more than this are dropped; none keeps the last L whatever their age."""
    max_users: PositiveInt = 1_000_000
    """Users held in memory at once by this worker; beyond it the longest idle ones make room."""
    standby: bool = False
    """Keep the windows of the other workers' partitions warm, too, so that a takeover begins with all but the last few
    changes. Every worker then holds the users of the whole topic: `max_users` must have room for them."""
    on_return: Literal["restore", "new"] = "restore"
    """What those who made room come back with. restore: their window, kept on local disk meanwhile (in the system's
    folder for temporary files, about a kilobyte each). new: none, as if they were new."""


class SnapshotSettings(Section):
    """Local copies of the windows, so that a restart reads only the end of the changelog."""

    folder: Path | None = None
    """Where they are kept (a disk that outlives the worker); none reads the whole changelog at every assignment."""
    interval_s: PositiveFloat = 300.0
    """How often each partition is written; an orderly stop writes all."""
    max_age_h: PositiveFloat = 12.0
    """Older ones are not used: must be less than the changelog's `delete.retention.ms`, or users who were forgotten
    meanwhile would come back."""


class IndexSettings(Section):
    """The nearest-item index of a release."""

    kind: Literal["auto", "exact", "hnsw"] = "auto"
    exact_up_to: Annotated[int, Ge(0)] = 5_000
    """auto: catalogues up to this many items are searched exactly, larger ones by HNSW."""
    m: Annotated[int, Ge(2), Le(256)] = 16
    ef_construction: PositiveInt = 200
    ef_search: PositiveInt = 64


class RecommendationSettings(Section):
    """The lists."""

    topic: str = "recommendations"
    count: Annotated[int, Ge(1), Le(200)] = 20
    """N: items per list."""
    candidates_per_interest: Annotated[int, Ge(1), Le(500)] = 40
    """C: items fetched near each interest before merging and filtering."""
    exclude_seen: bool = True
    """Leave out items that are in the user's window."""
    diversity: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    """Dial of maximal marginal relevance: 0 ranks by score alone, towards 1 items unlike those above them win."""
    push_away: Annotated[float, Ge(0.0)] = 0.5
    """How strongly items like those with a negative action lose score, times the action's weight."""
    resend_unchanged: bool = True
    """Send a list that has the same items as the user's last one: it knows newer clicks. A worker that was started anew
    sends each user's first list in any case."""
    reasons: Annotated[int, Ge(0), Le(10)] = 3
    """Clicks named as the reason behind each interest."""


class ReleaseSettings(Section):
    """Where releases come from."""

    topic: str = "releases"
    model: str = "two-hop"
    """Name of the model this worker follows."""
    folder: Path | None = None
    """A folder to watch for releases, too (`headrace publish --folder`); the newest announcement there or on the topic
    counts, and when one of the two cannot be read the other goes on."""
    path: Path | None = None
    """A bundle to start with, before anything is announced."""
    poll_interval_s: PositiveFloat = 1.0
    load_timeout_s: PositiveFloat = 120.0
    """A release is first loaded in a child process, its graphs run once; one that takes longer is refused."""
    load_memory_gib: PositiveFloat = 8.0
    """Address space of that child process; a release that needs more is refused."""


class WorkerSettings(Section):
    """The loop."""

    max_batch_clicks: Annotated[int, Ge(1), Le(100_000)] = 512
    """Clicks in one micro-batch at most."""
    poll_timeout_s: PositiveFloat = 0.1
    threads: PositiveInt = 1
    """Threads inside onnxruntime and hnswlib."""


class TelemetrySettings(Section):
    """/metrics, /healthz and /readyz."""

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 9108
    """0 takes any free port (it is logged)."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Section):
    """Everything that can be set, by section."""

    kafka: KafkaSettings = KafkaSettings()
    clicks: ClickSettings = ClickSettings()
    items: ItemSettings = ItemSettings()
    windows: WindowSettings = WindowSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    index: IndexSettings = IndexSettings()
    recommendations: RecommendationSettings = RecommendationSettings()
    releases: ReleaseSettings = ReleaseSettings()
    worker: WorkerSettings = WorkerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
