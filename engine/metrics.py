"""All metrics; names and units follow Prometheus' conventions (base units, `_total` for counters)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_FRESHNESS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUEST_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCH_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
_BATCH_CLICKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Metrics:
    """One worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._add_vitals()
        self._add_releases()
        self._add_losses()
        self._add_lag()
        self._add_archive()
        self._add_retraining()
        self.clicks = self._counter("clicks", "Clicks decoded, searches among them.")
        self.searches = self._counter("searches", "Searches decoded.")
        self.lists = self._counter("lists", "Lists delivered.")
        self.unchanged_lists = self._counter("unchanged_lists", "Lists not sent, as they equal their user's last.")
        self.dead_letters = self._counter("dead_letters", "Records sent to the dead letters.", "reason")
        self.dropped_events = self._counter("dropped_events", "Events that changed no window.", "reason")
        self.removed_candidates = self._counter("removed_candidates", "Candidates removed from lists.", "reason")
        self.freshness = Histogram(
            "headrace_freshness_seconds",
            "From the append of a click to the delivery of the first list that takes it into account.",
            buckets=_FRESHNESS_S,
            registry=self.registry,
        )
        self.batch_clicks = Histogram(
            "headrace_batch_clicks", "Clicks in a micro-batch.", buckets=_BATCH_CLICKS, registry=self.registry
        )
        self.stage_seconds = self._counter("stage_seconds", "Time spent in each stage of the data path.", "stage")
        self.users = self._gauge("users", "Users in the window store.")
        self.window_bytes = self._gauge("window_bytes", "Bytes of the window store.")
        self.evicted_users = self._gauge("evicted_users", "Users evicted from the window store since the start.")
        self.items = self._gauge("catalogue_items", "Item ids in memory, known to the release or not.")
        self.stream_items = self._gauge("stream_neighbour_items", "Items with neighbours counted from the clicks.")
        self.freed_items = self._counter("freed_items", "Item ids dropped, as no window and no release has them.")
        self.held_searches = self._gauge("held_searches", "Different searches in memory.")
        self._add_canary()
        self._add_experiment()
        self.forgotten_users = self._counter("forgotten_users", "Users deleted on request, with window and list.")
        self.restoring = self._gauge("restoring_partitions", "Assigned partitions whose windows are being restored.")
        self.standby = self._gauge("standby_partitions", "Partitions of other workers whose windows are kept warm.")
        self.restored_users = self._counter("restored_users", "Windows restored, by source.", "source")
        self.restore_seconds = self._counter("restore_seconds", "Time spent restoring windows.")
        self.refused_snapshots = self._counter("refused_snapshots", "Snapshots that could not be used.", "reason")
        self.set_aside_windows = self._counter("set_aside_windows", "Windows on the changelog that cannot be read.")
        self.misplaced_clicks = self._counter(
            "misplaced_clicks", "Clicks not keyed by user, by the sign of it: see engine/worker/key_watch.py.", "sign"
        )
        self.restarts = self._counter("session_restarts", "New sessions after a failure of the event log.")
        self._count_next_clicks()
        self._count_drift()

    def _add_canary(self) -> None:
        """A canary as the worker that decides on it sees it; absent where there is none."""
        self.canary = self._gauge("canary_info", "1 for the release that is judged as a canary.", "model", "version")
        self.canary_users = self._gauge("canary_users", "Users judged in each arm.", "arm")
        self.canary_gain = self._gauge("canary_gain", "Mean gain of a click (NDCG@10 of the next click).", "arm")
        self.canary_difference = self._gauge(
            "canary_difference",
            "Gain of the canary minus that of the live release, with its always-valid bounds.",
            "bound",
        )
        self.canary_decisions = self._counter("canary_decisions", "Canaries that this worker has ended.", "decision")

        self.trial_impressions = self._counter(
            "trial_impressions",
            "Reports of what this worker's users were shown, while a canary or experiment is judged by them: arm (of a"
            " list of the user's arm), other (counts in none), unreadable.",
            "outcome",
        )

    def clear_canary(self) -> None:
        """Show no canary."""
        for gauge in (self.canary, self.canary_users, self.canary_gain, self.canary_difference):
            gauge.clear()

    def _add_experiment(self) -> None:
        """An experiment as the worker that adds up its sums sees it; absent where there is none."""
        self.experiment_users = self._gauge("experiment_users", "Users who count in an arm.", "experiment", "arm")
        self.experiment_gain = self._gauge(
            "experiment_gain", "Mean gain of a click (NDCG@10 of the next click).", "experiment", "arm"
        )
        self.experiment_lift = self._gauge(
            "experiment_lift",
            "Gain of an arm over that of the control, minus 1, with its always-valid bounds.",
            *("experiment", "arm", "bound"),
        )
        self.experiment_sample_ratio = self._gauge(
            "experiment_sample_ratio",
            "Probability of numbers of users as far from the shares of the arms; below 0.001 the experiment is not to"
            " be read.",
            "experiment",
        )

    def clear_experiment(self) -> None:
        """Show no experiment."""
        for gauge in (
            self.experiment_users,
            self.experiment_gain,
            self.experiment_lift,
            self.experiment_sample_ratio,
        ):
            gauge.clear()

    def _count_next_clicks(self) -> None:
        self.next_clicks = self._counter("next_clicks", "Clicks by users whose last list is known.", "release")
        self.next_click_hits = self._counter(
            "next_click_hits", "Of those, clicks on one of the first ten items of that list.", "release"
        )
        self.next_click_popular_hits = self._counter(
            "next_click_popular_hits",
            "Of those, clicks on one of as many most popular items of seven days, seen ones left out as in lists.",
            "release",
        )

    def _count_drift(self) -> None:
        """Counters by release in use, of which `engine.quality.drift` has the definitions."""
        self.item_clicks = self._counter(
            "item_clicks",
            "Clicks of positive weight on items, by age of the item: within an hour, day, week or month of its first"
            " click that is known, or older.",
            *("release", "age"),
        )
        self.unknown_item_clicks = self._counter(
            "unknown_item_clicks", "Of those, clicks on items that the release does not know.", "release"
        )
        self.interest_lists = self._counter("interest_lists", "Lists of users with interests.", "release")
        self.interest_norms = self._counter(
            "interest_norms", "Sum over those lists of the mean length of the user's interests.", "release"
        )
        self.listed_interests = self._counter(
            "listed_interests",
            "Sum over those lists of the effective number of interests that the first ten places come from.",
            "release",
        )

    def _add_releases(self) -> None:
        """Metrics of the release in use, and of those refused."""
        self.index_items = self._gauge("index_items", "Items in the index of the release in use.")
        self.index_recall = self._gauge(
            "index_recall", "Share of the items nearest to an interest that a search of the release in use finds."
        )
        self.exact_fallback_queries = self._counter(
            "exact_fallback_queries", "Interests searched exactly, as the HNSW graph reached too few items from them."
        )
        self.release = self._gauge("release_info", "1 for the release in use.", "model", "version")
        self.release_swaps = self._counter("release_swaps", "Releases that went live.")
        self.release_refusals = self._counter("release_refusals", "Releases that were refused.", "reason")

    def _add_vitals(self) -> None:
        """Gauges of the worker itself, which `engine.worker.vitals` sets."""
        self.ready = self._gauge("ready", "1 while this worker serves, 0 otherwise: `/readyz` says why.")
        self.loop_idle = self._gauge("loop_idle_seconds", "Time since the worker's loop last turned.")
        self.broker_silent = self._gauge("broker_silent_seconds", "Time since a broker last answered this worker.")
        self.memory_limit = self._gauge(
            "memory_limit_bytes", "Memory that this process may use: its container's limit."
        )

    def _add_losses(self) -> None:
        """Counters of what could not be kept as it came."""
        self.cut_dead_letters = self._counter("cut_dead_letters", "Dead letters with the head of their value alone.")
        self.unsent_dead_letters = self._counter("unsent_dead_letters", "Dead letters that their topic refuses.")
        self.unspilled_users = self._gauge(
            "unspilled_users", "Evicted windows kept in memory, as the spill store cannot be written."
        )
        self.failed_snapshots = self._counter("failed_snapshots", "Snapshots that could not be written.")
        self.deleted_records = self._counter("deleted_records", "Records that retention deleted before they were read.")

    def _add_lag(self) -> None:
        """Gauges of what is not read yet."""
        self.consumer_lag = self._gauge("consumer_lag", "Records not yet read.", "topic", "partition")
        self.consumer_lag_seconds = self._gauge(
            "consumer_lag_seconds", "Age of the oldest record not yet read.", "topic", "partition"
        )

    def _add_archive(self) -> None:
        """Metrics of `headrace archive`."""
        self.archived_clicks = self._counter("archived_clicks", "Clicks written to the archive.")
        self.archive_files = self._counter(
            "archive_files", "Files of the archive: new ones, compacted ones, and ones deleted.", "change"
        )
        self.archive_unwritten = self._gauge(
            "archive_unwritten_seconds", "Time for which the oldest click that was read waits to be in a file."
        )

    def _add_retraining(self) -> None:
        """Metrics of `headrace retrain`."""
        self.retrainings = self._counter("retrainings", "Retrainings, by outcome.", "outcome")
        self.retraining_seconds = self._gauge("retraining_seconds", "Duration of the last retraining.")
        self.retraining_success = self._gauge(
            "retraining_last_success_timestamp_seconds", "End of the last retraining that ended in a decision."
        )
        self.retraining_due = self._gauge("retraining_next_due_timestamp_seconds", "Time of the next retraining.")
        self.retraining_unknown_share = self._gauge(
            "retraining_unknown_share",
            "Share of the archive's clicks since the live release on items that it does not know (retrain.on_drift).",
        )
        self.retraining_elected = self._gauge("retraining_elected", "1 while this retrainer is the one of its model.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"headrace_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"headrace_{name}", text, labels, registry=self.registry)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent in the context to a stage."""
        started_s = time.perf_counter()
        yield
        self.stage_seconds.labels(name).inc(time.perf_counter() - started_s)


class ServeMetrics(Metrics):
    """The metrics of one `headrace serve`: those of windows and releases, which it follows, and those of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = self._counter("requests", "Requests answered, by path and status.", "path", "status")
        self.request_seconds = Histogram(
            "headrace_request_seconds",
            "From the head of a request to the head of its answer, by path.",
            ("path",),
            buckets=_REQUEST_S,
            registry=self.registry,
        )
        self.batch_requests = Histogram(
            "headrace_batch_requests",
            "Requests computed together.",
            buckets=_BATCH_REQUESTS,
            registry=self.registry,
        )
        self.shed_requests = self._counter(
            "shed_requests", "Requests turned away: queue, streams, rate or connections.", "reason"
        )
        self.impressions = self._counter(
            "impressions", "Reports of shown items put on their topic, by whether their decision was known.", "decision"
        )
        self.waiting_requests = self._gauge("waiting_requests", "Requests that wait to be computed.")
        self.stored_lists = self._gauge("stored_lists", "Users whose last pushed list is held.")
        self.streams = self._gauge("streams", "Streams of events that are open.")
