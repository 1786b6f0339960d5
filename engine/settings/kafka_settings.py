"""Settings of the Kafka cluster and its topics."""

from pathlib import Path
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import Field, model_validator

from engine.settings.section import PositiveFloat, PositiveInt, Section


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
    impression_retention_h: PositiveFloat | None = 720.0
    """Age at which impressions are deleted, which hold what users saw."""
