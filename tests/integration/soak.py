"""Soak: a worker at half of its saturation on a real Kafka for a quarter of an hour, watched from outside.

    KAFKA_HOME=… python -m tests.integration.soak --release producers/demo/release
    KAFKA_HOME=… python -m tests.integration.soak --release producers/demo/release --minutes 2

Starts a broker and `headrace run`, finds out how fast the worker takes a backlog, and goes on with half of that. Every
five seconds it looks at the worker's resident memory, threads and file descriptors (/proc, so Linux only) and at its
/metrics. At the end it prints one JSON object, and fails when memory grew by more than 5 % after warm-up, threads or
file descriptors grew at all, or the worker started its session anew or fell behind.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import click
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from engine.eventlog.base import Outgoing, Producer
from engine.eventlog.kafka import KafkaLog
from engine.settings.sections import KafkaSettings
from tests.integration import broker
from tests.integration.site import Site
from tests.waiting import LIMIT_S

USERS = 1_000
BACKLOG = 110 * USERS
"""Fills every window (L = 100): a worker whose windows still grow needs more memory by right."""
SEND_EVERY_S = 0.02
SAMPLE_EVERY_S = 5.0
WARM_UP_SHARE = 0.2
COMPARED_SHARE = 0.2
"""Of the samples behind warm-up, how many at each end are compared."""
MOST_GROWTH = 0.05
MOST_LAG_S = 5.0
FRESHNESS = "headrace_freshness_seconds_bucket"

Metrics = dict[tuple[str, str], float]  # by name and, of a histogram, the bucket's upper bound


@dataclass(frozen=True, slots=True)
class Sample:
    """The worker as it looks from outside."""

    rss_mib: float
    threads: int
    fds: int


@dataclass(frozen=True, slots=True)
class Growth:
    """Medians at the beginning and the end of the time behind warm-up."""

    first: float
    last: float

    @property
    def share(self) -> float:
        return self.last / self.first - 1


class Feed:
    """Clicks of many users on the items of a release, never twice the same."""

    def __init__(self, topic: str, producer: Producer, release: Path) -> None:
        self._topic = topic
        self._producer = producer
        self._items: list[str] = json.loads((release / "ids.json").read_text())
        self._rng = np.random.default_rng(0)
        self.sent = 0

    def send(self, count: int) -> None:
        """Put so many clicks on the topic; users take turns, so that soon each has a window."""
        now_ms = time.time_ns() // 1_000_000
        users = [f"user-{(self.sent + number) * 7919 % USERS}" for number in range(count)]
        items = self._rng.integers(0, len(self._items), count).tolist()
        values: list[bytes | None] = [
            json.dumps({"user": user, "item": self._items[item], "ts": now_ms, "event_id": self.sent + number}).encode()
            for number, (user, item) in enumerate(zip(users, items, strict=True))
        ]
        self._producer.send(Outgoing(self._topic, [user.encode() for user in users], values))
        self.sent += count

    def run(self, per_s: float, seconds: float) -> Iterator[None]:
        """Send at a steady pace; gives way to the caller whenever a sample is due."""
        began_s, before = time.monotonic(), self.sent
        sample_due_s = SAMPLE_EVERY_S
        while (passed_s := time.monotonic() - began_s) < seconds:
            self.send(int(passed_s * per_s) + before - self.sent)
            if passed_s >= sample_due_s:
                sample_due_s += SAMPLE_EVERY_S
                self._producer.flush()
                yield
            time.sleep(SEND_EVERY_S)


class Watch:
    """Looks at one worker."""

    def __init__(self, pid: int, log_file: Path) -> None:
        self._proc = Path("/proc", str(pid))
        self._url = _metrics_url(log_file)

    def sample(self) -> Sample:
        """Memory, threads and file descriptors now."""
        pages = int((self._proc / "statm").read_text().split()[1])
        return Sample(
            rss_mib=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            threads=len(list((self._proc / "task").iterdir())),
            fds=len(list((self._proc / "fd").iterdir())),
        )

    def metrics(self) -> Metrics:
        """What the worker says of itself, partitions added up."""
        with urlopen(self._url, timeout=10) as answer:  # noqa: S310 - http on this machine
            text = answer.read().decode()
        found: Metrics = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                key = (one.name, one.labels.get("le", ""))
                found[key] = found.get(key, 0.0) + one.value
        return found

    def wait_for_clicks(self, count: float) -> float:
        """When so many clicks were processed (monotonic seconds)."""
        deadline_s = time.monotonic() + 2 * LIMIT_S
        while self.metrics()["headrace_clicks_total", ""] < count:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the worker did not process {count:.0f} clicks within {2 * LIMIT_S:.0f} s")
            time.sleep(0.1)
        return time.monotonic()


@click.command(help=__doc__)
@click.option("--minutes", default=15.0, show_default=True, help="How long to run at half of saturation.")
@click.option(
    "--release", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False), help="Bundle to serve."
)
def main(minutes: float, release: Path) -> None:
    home = os.environ.get("KAFKA_HOME")
    if reason := broker.missing(home):
        raise click.UsageError(reason)
    with (
        tempfile.TemporaryDirectory(prefix="headrace-soak-") as folder,
        broker.Cluster(Path(str(home)).resolve(), Path(folder) / "kafka") as cluster,
    ):
        report = soak(_site(cluster, release.resolve(), Path(folder)), release, minutes * 60)
    click.echo(json.dumps(report, indent=2))
    sys.exit(1 if report["failures"] else 0)


def soak(site: Site, release: Path, seconds: float) -> dict[str, Any]:
    """Run the worker for so long, and report."""
    with site.log.producer() as producer:
        feed = Feed(site.clicks, producer, release)
        feed.send(BACKLOG)
        producer.flush()
        with _watched(site) as watch:
            saturation = _saturation(watch)
            click.echo(f"a backlog is taken at {saturation:,.0f} clicks/s; on with half of that", err=True)
            per_s, warm_up_s = saturation / 2, seconds * WARM_UP_SHARE
            for _ in feed.run(per_s, warm_up_s):
                _tell(watch.sample())
            before = watch.metrics()
            samples = []
            for _ in feed.run(per_s, seconds - warm_up_s):
                samples.append(watch.sample())
                _tell(samples[-1])
            after = watch.metrics()
    return _report(samples, before, after, per_s) | {"saturation_clicks_per_s": round(saturation), "seconds": seconds}


def _site(cluster: broker.Cluster, release: Path, folder: Path) -> Site:
    log = KafkaLog(KafkaSettings(bootstrap_servers=cluster.bootstrap))
    site = Site(log, cluster.bootstrap, lambda name: name, release, folder)
    site.environ["HEADRACE_WINDOWS__MAX_USERS"] = str(2 * USERS)
    site.environ["HEADRACE_KAFKA__SESSION_TIMEOUT_S"] = "10"
    return site


@contextmanager
def _watched(site: Site) -> Iterator[Watch]:
    with site.worker() as process:
        site.wait_until_ready()
        yield Watch(process.pid, site.log_file)


def _metrics_url(log_file: Path) -> str:
    found = re.search(r"metrics on (http://\S+)", log_file.read_text())
    if found is None:
        raise RuntimeError(f"the worker did not say where its metrics are: {log_file.read_text()[-2000:]}")
    return found[1]


def _saturation(watch: Watch) -> float:
    """Clicks a second at which the worker takes the backlog, its start left out."""
    first, last = BACKLOG / 4, BACKLOG
    began_s = watch.wait_for_clicks(first)
    begun = watch.metrics()["headrace_clicks_total", ""]
    return (last - begun) / (watch.wait_for_clicks(last) - began_s)


def _report(samples: list[Sample], before: Metrics, after: Metrics, per_s: float) -> dict[str, Any]:
    compared = max(1, round(len(samples) * COMPARED_SHARE))
    growth = {
        name: Growth(
            *(median(getattr(one, name) for one in part) for part in (samples[:compared], samples[-compared:]))
        )
        for name in ("rss_mib", "threads", "fds")
    }
    restarts = after["headrace_session_restarts_total", ""]
    lag = after.get(("headrace_consumer_lag", ""), 0.0)
    wrong = {
        f"memory grew by {growth['rss_mib'].share:.1%}": growth["rss_mib"].share > MOST_GROWTH,
        "threads grew": growth["threads"].last > growth["threads"].first,
        "file descriptors grew": growth["fds"].last > growth["fds"].first,
        f"{restarts:.0f} session restarts": restarts > 0,
        f"{lag:.0f} clicks behind at the end": lag > per_s * MOST_LAG_S,
    }
    return {
        "failures": [what for what, is_so in wrong.items() if is_so],
        "clicks_per_s": round(per_s),
        "clicks": round(after["headrace_clicks_total", ""] - before["headrace_clicks_total", ""]),
        "users": round(after["headrace_users", ""]),
        "samples": len(samples),
        "memory_growth": round(growth["rss_mib"].share, 4),
        **{name: asdict(one) for name, one in growth.items()},
        "freshness_ms": {f"p{share:.0%}"[:-1]: _quantile(before, after, share) for share in (0.5, 0.9, 0.99)},
        "lag": lag,
        "restarts": restarts,
    }


def _quantile(before: Metrics, after: Metrics, share: float) -> float:
    """Milliseconds within which this share of lists was delivered between two scrapes, interpolated in its bucket."""
    bounds = sorted(
        (float(bound), count - before[name, bound]) for (name, bound), count in after.items() if name == FRESHNESS
    )
    below_s, below = 0.0, 0.0
    wanted = share * bounds[-1][1]
    for bound_s, count in bounds:
        if count >= wanted and np.isfinite(bound_s):
            return round(1000 * (below_s + (bound_s - below_s) * (wanted - below) / max(count - below, 1)), 1)
        below_s, below = bound_s, count
    return below_s * 1000


def _tell(sample: Sample) -> None:
    click.echo(f"{sample.rss_mib:.1f} MiB, {sample.threads} threads, {sample.fds} file descriptors", err=True)


if __name__ == "__main__":
    main()
