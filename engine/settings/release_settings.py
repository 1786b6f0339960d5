"""Settings of releases: where they are announced, how new ones are made and tried."""

import base64
from pathlib import Path
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field, field_validator, model_validator

from engine.settings.section import PositiveFloat, PositiveInt, Section

_PUBLIC_KEY_BYTES = 32


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
    public_keys: list[str] = Field(default=[])
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
    warm_start: bool = False
    """Begin with the item vectors of the live release, where its vectors are as long, in place of the spectral
    embedding of the clicks (`headrace train --spectral-start`). They have learned from most of the clicks that
    validate the training, which then stops early."""
    threads: PositiveInt = 1
    """Threads of torch, beside those of `worker.threads`."""
    interval_h: PositiveFloat = 24.0
    """Time between the beginnings of two retrainings; not used with `cron`."""
    cron: str | None = None
    """Times of retrainings as a cron expression, in UTC: `0 3 * * *` is every night at three."""
    new_clicks: PositiveInt | None = None
    """Retrain earlier, too, once the archive has so many new records."""
    on_drift: bool = False
    """Retrain earlier, too, when the archive shows many clicks on items that the live release does not know."""
    drift_share: Annotated[float, Gt(0.0), Le(1.0)] = 0.2
    """Share of the clicks since the live release's newest one that is many."""
    drift_clicks: Annotated[int, Ge(100)] = 2_000
    """So many clicks must have come since then, and since the beginning of the last retraining."""
    signing_key: Path | None = None
    """Private key (`headrace releases keygen`) that signs a release which passes the gate. Without one, releases wait
    for somebody to sign them where `releases.require_signature` is set."""
    publish_as: Literal["live", "canary"] = "live"
    """What a release that passes the gate is announced as: for all users, or for a share of them until their clicks
    decide (`[canary]`). The first release of a model is live in any case."""
    min_lead: Annotated[float, Ge(0.0), Le(1.0)] = 0.01
    """Share of the live release's NDCG@10 by which a new release must lead it, beyond chance."""
    keep_share: Annotated[float, Gt(0.0), Le(1.0)] = 0.8
    """Share of the live release's interests in use, and of the number of items in its lists, that a new one must
    keep."""
    min_recall: Annotated[float, Ge(0.0), Le(1.0)] = 0.95
    """Least recall of a new release's index, where it is not exact."""
    keep_refused: Annotated[int, Ge(0)] = 5
    """Newest bundles that the gate refused and that stay in `releases`; older ones are deleted, their reports stay."""
    max_slowdown: Annotated[float, Ge(1.0)] = 1.5
    """Largest ratio of the processor time of a new release's list to that of the live one's, measured in turns; a
    release is refused when it is certain that the true ratio is larger."""
    slowdown_floor_s: Annotated[float, Ge(0.0)] = 0.00025
    """A list that takes less than this longer never counts as slower, whatever the ratio."""


Exposure = Literal["lists", "impressions"]


class CanarySettings(Section):
    """A release that is announced as a canary: for whom, and what decides on it."""

    topic: str = "canary-sums"
    """Sums of judged clicks, from which canaries and experiments are judged: compacted, one partition."""
    mode: Literal["split", "interleave"] = "split"
    """split: the share of users gets the canary's lists. interleave: it gets lists that the canary and the live release
    make together by team draft, which takes fewer users and the time of both."""
    share: Annotated[float, Gt(0.0), Le(0.9)] = 0.1
    """Share of the users who are served by the canary, or by both."""
    salt: str = ""
    """Other users are in the canary with another salt; without one they are others for each canary."""
    exposure: Exposure = "lists"
    """Condition for a user to be counted in an arm, of experiments too unless they are started with another
    `--exposure`. lists: a list was sent to the user, and clicks are judged by the last one. impressions: a list was
    shown to the user, and clicks are judged by the last one shown; needs `impressions.accept`, and a program that
    reports impressions."""
    impression_wait_s: Annotated[float, Ge(0.0)] = 10.0
    """Exposure by impressions: time for which a click waits to be judged, so that reports of what was shown before it
    can come."""
    interval_s: PositiveFloat = 10.0
    """Time between two records of a worker's sums, and between two looks at all of them; of experiments, too."""
    min_users: Annotated[int, Ge(50)] = 200
    """Users judged in each arm before anything is decided, or a lift reported of an experiment."""
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
    """The end of a canary without a difference, or whose time is over; one by which nobody was served is taken back."""
