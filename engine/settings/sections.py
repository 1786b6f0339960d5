"""The settings: a TOML file, replaced by the environment; unknown keys are refused, and all is read once.

    headrace run --config headrace.toml
    HEADRACE_KAFKA__BOOTSTRAP_SERVERS=broker:9092 headrace run      # section, two underscores, key

Names carry units (`_s` seconds, `_ms` milliseconds, `_bytes`). `headrace settings` prints every value in force, and
where it comes from.
"""

import base64
import datetime as dt
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.arrays import MAX_ACTIONS

MAX_ACTION_WEIGHT = 1000.0
PREFIXED: Final = {
    "kafka": {"group", "client_id"},
    "clicks": {"topic", "by_user_topic", "dead_letter_topic"},
    "windows": {"topic"},
    "recommendations": {"topic"},
    "releases": {"topic"},
    "canary": {"topic"},
}
"""By section, the names that `kafka.prefix` is put before."""
MAX_ACTION_BYTES = 255
_PUBLIC_KEY_BYTES = 32

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

    A dot steps into a nested object, a step of digits into an array (`lines.0.id`). A backslash makes a dot a part of a
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
    poll_interval_s: PositiveFloat = 0.5
    """Time between two looks for new announcements, and so the longest that a rollback waits to be seen."""
    load_timeout_s: PositiveFloat = 120.0
    """Time limit for loading a release in a child process first, where its graphs run once; a slower one is refused."""
    load_memory_gib: PositiveFloat = 8.0
    """Address space of that child process; a release that needs more is refused."""
    require_signature: bool = False
    """Serve by releases alone that a key of `public_keys` has signed."""
    public_keys: list[str] = []
    """Ed25519 keys, as `headrace releases keygen` prints them."""

    @field_validator("public_keys")
    @classmethod
    def _are_keys(cls, keys: list[str]) -> list[str]:
        for key in keys:
            try:
                size = len(base64.b64decode(key, validate=True))
            except ValueError:
                size = 0
            if size != _PUBLIC_KEY_BYTES:
                raise ValueError(f"found {key!r}, expected the line that `headrace releases keygen` prints")
        return keys

    @model_validator(mode="after")
    def _has_keys_where_required(self) -> Self:
        if self.require_signature and not self.public_keys:
            raise ValueError("require_signature without public_keys refuses every release: name a key, or leave it out")
        return self


class ArchiveSettings(Section):
    """The archive of clicks, which `headrace archive` writes and training reads."""

    folder: Annotated[str, Field(min_length=1)] | None = None
    """A folder, or an address that fsspec knows (s3://bucket/clicks)."""
    file_age_s: PositiveFloat = 300.0
    """Longest time for which clicks wait for others to be written with them. A request to forget a user does not
    wait."""
    file_mib: PositiveFloat = 64.0
    """Size of a file: of the clicks in memory when it is written, and on disk when small ones are compacted to one."""
    compaction_interval_s: PositiveFloat = 3600.0
    """Time between two compactions: small files of a day become one, and users who are forgotten disappear from all."""
    retention_days: PositiveInt | None = None
    """Age at which files are deleted, by the day on which their clicks came; without one they are kept."""


class RetrainSettings(Section):
    """Retraining: when, on which clicks, and the gate that a new release has to pass (`headrace retrain`)."""

    releases: Path = Path("releases")
    """Folder that releases are written to; every worker must see it by this path, unless they are copied
    (`headrace retrain --folder`)."""
    days: PositiveFloat = 90.0
    """Clicks of so many days before the newest one are trained on and evaluated."""
    training: Path | None = None
    """TOML file of training settings, as for `headrace train --settings`; their defaults without one."""
    warm_start: bool = True
    """Begin with the item vectors of the live release, where its vectors are as long."""
    threads: PositiveInt = 1
    """Threads of torch, beside those of `worker.threads`."""
    interval_h: PositiveFloat = 24.0
    """Time between the beginnings of two retrainings; not used with `cron`."""
    cron: str | None = None
    """Times of retrainings as a cron expression, in UTC: `0 3 * * *` is every night at three."""
    new_clicks: PositiveInt | None = None
    """Retrain earlier, too, once the archive has so many new records."""
    publish_as: Literal["live", "canary"] = "live"
    """What a release that passes the gate is announced as: for all users, or for a share of them until their clicks
    decide (`[canary]`). The first release of a model is live in any case."""
    min_lead: Annotated[float, Ge(0.0), Le(1.0)] = 0.01
    """Share of the live release's NDCG@10 by which a new release must lead it, beyond chance."""
    keep_share: Annotated[float, Gt(0.0), Le(1.0)] = 0.8
    """Share of the live release's interests in use, and of its coverage, that a new one must keep."""
    min_recall: Annotated[float, Ge(0.0), Le(1.0)] = 0.95
    """Least recall of a new release's index, where it is not exact."""
    max_slowdown: Annotated[float, Ge(1.0)] = 1.5
    """Largest ratio of the time of a new release's list to that of the live one's, measured side by side."""


class CanarySettings(Section):
    """A release that is announced as a canary: for whom, and what decides on it."""

    topic: str = "canary-sums"
    """Sums of judged clicks, from which all workers' canary is judged: compacted, one partition."""
    mode: Literal["split", "interleave"] = "split"
    """split: the share of users gets the canary's lists. interleave: it gets lists that the canary and the live release
    make together by team draft, which takes fewer users and the time of both."""
    share: Annotated[float, Gt(0.0), Le(0.9)] = 0.1
    """Share of the users who are served by the canary, or by both."""
    salt: str = ""
    """Other users are in the canary with another salt; without one they are others for each canary."""
    interval_s: PositiveFloat = 10.0
    """Time between two records of a worker's sums, and between two looks at all of them."""
    min_users: Annotated[int, Ge(50)] = 200
    """Users judged in each arm before anything is decided."""
    harm_error: Annotated[float, Gt(0.0), Le(0.2)] = 0.05
    """Probability of taking back a canary that is as good as the live release, all looks together."""
    better_error: Annotated[float, Gt(0.0), Le(0.2)] = 0.05
    """Probability of promoting a canary as better that is only as good, all looks together."""
    difference: Annotated[float, Gt(0.0), Lt(1.0)] = 0.01
    """The smallest difference of the mean gain of a click (NDCG@10 of the next click) that matters: when it is certain
    that the true one is less, there is no difference; and the test is at its best where it is about this."""
    max_hours: PositiveFloat = 168.0
    """After this time there is no difference."""
    on_no_difference: Literal["promote", "take_back"] = "take_back"
    """The end of a canary without a difference, or whose time is over."""


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
    cors_origins: list[str] = []
    """Origins whose pages may call the server from a browser, such as "https://shop.example"; "*" for any."""
    tls_certificate_file: Path | None = None
    """Certificate chain in PEM; with it the server speaks HTTPS alone."""
    tls_key_file: Path | None = None
    """Private key of the certificate, in PEM, where it is not in the same file."""


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
    archive: ArchiveSettings = ArchiveSettings()
    retrain: RetrainSettings = RetrainSettings()
    canary: CanarySettings = CanarySettings()
    worker: WorkerSettings = WorkerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    serve: ServeSettings = ServeSettings()

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
