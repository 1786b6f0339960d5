"""The four dashboards: what is on them, and how it is read."""

from typing import Final

from deploy.monitoring.panels import Colour, Dashboard, Panel, Query, Row
from deploy.monitoring.rules import (
    CLICKS_1H,
    DEAD_SHARE,
    DEAD_SHARE_LIMIT,
    FRESHNESS_LIMIT_S,
    FRESHNESS_P50,
    FRESHNESS_P99,
    INTEREST_NORM,
    ITEM_CLICKS,
    JUDGED,
    LAG,
    LAG_LIMIT_S,
    LISTED_INTERESTS,
    MEMORY_SHARE_LIMIT,
    NEXT_CLICK,
    POPULAR,
    SILENT_S,
    STALLED_S,
    UNKNOWN_ITEMS,
    USUAL_CLICKS,
    Recorded,
)
from deploy.monitoring.series import (
    OF_DEPLOYMENT,
    AnyMetric,
    M,
    S,
    increased,
    mean,
    name,
    now,
    of_deployment,
    or_zero,
    per_second,
    quantile,
    selected,
)

RELEASE_CHANGES: Final = f"changes({now(M.release_swaps)}[$__interval]) > 0"
"""Above 0 where a worker took a new release."""
EVERY_WORKER: Final = name(M.ready)

_MEMORY: Final = selected("process_resident_memory_bytes")
_YES_NO: Final[dict[str, tuple[str, Colour]]] = {"0": ("no", "red"), "1": ("yes", "green")}


def _of_deployment(recorded: Recorded) -> str:
    """A recorded series, which has deployments and no workers."""
    return f'{recorded.name}{{deployment=~"$deployment"}}'


def _increase_of_any(metric: AnyMetric, by: str) -> str:
    """The increase of a counter of any program, by labels."""
    return f"sum by ({by}) (increase({of_deployment(metric)}[$__rate_interval]))"


_FIRST_LOOK: Final = (
    Panel(
        "Workers that serve",
        "Ready ones, of all that are scraped. Fewer for a moment is a restart or a restore; none is an outage.",
        (Query(f"sum({now(M.ready)})", "ready"), Query(f"count({now(M.ready)})", "all")),
        kind="stat",
        width=4,
        base="red",
        limits=((1, "green"),),
    ),
    Panel(
        "Freshness, 99 of 100 lists",
        "From a click's append to the delivery of the list that follows it. Above a second somebody sees old lists.",
        (Query(f"max({_of_deployment(FRESHNESS_P99)})", "p99"),),
        unit="s",
        kind="stat",
        width=4,
        limits=((FRESHNESS_LIMIT_S / 4, "yellow"), (FRESHNESS_LIMIT_S, "red")),
    ),
    Panel(
        "Lag",
        "Age of the oldest click that is not read yet. It falls again after a burst; when it does not, add workers.",
        (Query(f"max({_of_deployment(LAG)})", "oldest"),),
        unit="s",
        kind="stat",
        width=4,
        limits=((LAG_LIMIT_S / 4, "yellow"), (LAG_LIMIT_S, "red")),
    ),
    Panel(
        "Next click in the list",
        "Share of clicks within the last hour on the ten first items of the user's last list. Compare it with popular"
        " items, on the dashboard of quality.",
        (
            Query(
                f"sum({_of_deployment(NEXT_CLICK)} * {_of_deployment(JUDGED)}) / sum({_of_deployment(JUDGED)})",
                "share",
            ),
        ),
        unit="percentunit",
        kind="stat",
        width=4,
        base="blue",
    ),
    Panel(
        "Records that are no clicks",
        "Dead letters by all records read. A jump is a producer that changed its messages.",
        (Query(or_zero(f"max({_of_deployment(DEAD_SHARE)})"), "share"),),
        unit="percentunit",
        kind="stat",
        width=4,
        limits=((DEAD_SHARE_LIMIT / 5, "yellow"), (DEAD_SHARE_LIMIT, "red")),
    ),
    Panel(
        "Alerts",
        "Alerts that fire now; docs/runbook.md says of each what to do.",
        (Query('count(ALERTS{alertstate="firing", alertname=~"Headrace.+"}) or vector(0)', "firing"),),
        kind="stat",
        width=4,
        limits=((1, "red"),),
    ),
)

_STAGES: Final = Panel(
    "Time by stage",
    "Seconds a second that the data path spends in each stage, all selected workers together. One core is 1 a worker:"
    " near that, lag grows.",
    (Query(per_second(M.stage_seconds, "stage"), "{{stage}}"),),
    unit="s",
    stacked=True,
)

OVERVIEW: Final = Dashboard(
    "overview",
    "Headrace: overview",
    "Is anybody served, how fresh, how good, and what is in the way.",
    (
        Row("Now", _FIRST_LOOK),
        Row(
            "Flow",
            (
                Panel(
                    "Clicks in, lists out",
                    "A second. Lists are fewer than clicks when users click several times within a batch.",
                    (
                        Query(per_second(M.clicks), "clicks"),
                        Query(per_second(M.searches), "searches among them"),
                        Query(per_second(M.lists), "lists"),
                        Query(per_second(M.unchanged_lists), "lists not sent, unchanged"),
                    ),
                    unit="cps",
                ),
                Panel(
                    "Freshness",
                    "From append to delivery, by share of the lists.",
                    (
                        Query(_of_deployment(FRESHNESS_P50), "{{deployment}} p50"),
                        Query(_of_deployment(FRESHNESS_P99), "{{deployment}} p99"),
                    ),
                    unit="s",
                    limits=((FRESHNESS_LIMIT_S, "red"),),
                ),
                Panel(
                    "Lag by topic",
                    "Age of the oldest unread record of each topic.",
                    (Query(f"max by (deployment, topic) ({now(M.consumer_lag_seconds)})", "{{deployment}} {{topic}}"),),
                    unit="s",
                    limits=((LAG_LIMIT_S, "red"),),
                ),
                _STAGES,
                Panel(
                    "Dead letters by reason",
                    "Records a second that went to the topic of dead letters: `headrace dead list` shows them.",
                    (Query(per_second(M.dead_letters, "reason"), "{{reason}}"),),
                    unit="cps",
                    stacked=True,
                ),
                Panel(
                    "Events that changed nothing",
                    "Repeated, late or expired events, refused consent, types that are skipped.",
                    (Query(per_second(M.dropped_events, "reason"), "{{reason}}"),),
                    unit="cps",
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Workers",
            (
                Panel(
                    "Every worker",
                    "Whether it serves, users in its windows, and its lag.",
                    (
                        Query(f"sum by (deployment, instance) ({now(M.ready)})", "ready"),
                        Query(f"sum by (deployment, instance) ({now(M.users)})", "users"),
                        Query(f"max by (deployment, instance) ({now(M.consumer_lag_seconds)})", "lag"),
                    ),
                    kind="table",
                    width=12,
                ),
                Panel(
                    "Memory of each worker",
                    "Of what it may use: the container's limit, or the machine's memory.",
                    (Query(f"{_MEMORY} / {now(M.memory_limit)}", "{{instance}}"),),
                    unit="percentunit",
                    width=12,
                    top=1,
                    limits=((MEMORY_SHARE_LIMIT, "red"),),
                ),
            ),
        ),
    ),
)

WORKER: Final = Dashboard(
    "worker",
    "Headrace: one worker",
    "One process from the inside: does it turn, where does its time go, what does it hold.",
    (
        Row(
            "Now",
            (
                Panel(
                    "Ready",
                    "Whether it serves; `/readyz` says why not.",
                    (Query(now(M.ready), ""),),
                    kind="stat",
                    width=4,
                    base="red",
                    limits=((1, "green"),),
                    texts=_YES_NO,
                ),
                Panel(
                    "Loop last turned",
                    "Time since then. Above a minute `/healthz` fails and the worker is restarted.",
                    (Query(now(M.loop_idle), ""),),
                    unit="s",
                    kind="stat",
                    width=4,
                    limits=((STALLED_S / 4, "yellow"), (STALLED_S, "red")),
                ),
                Panel(
                    "Broker last answered",
                    "Time since then; heartbeats bring an answer every second.",
                    (Query(now(M.broker_silent), ""),),
                    unit="s",
                    kind="stat",
                    width=4,
                    limits=((5, "yellow"), (SILENT_S, "red")),
                ),
                Panel(
                    "Memory",
                    "Of what this worker may use.",
                    (Query(f"{_MEMORY} / {now(M.memory_limit)}", ""),),
                    unit="percentunit",
                    kind="stat",
                    width=4,
                    limits=((MEMORY_SHARE_LIMIT - 0.1, "yellow"), (MEMORY_SHARE_LIMIT, "red")),
                ),
                Panel(
                    "Users in memory",
                    "Windows held; at `windows.max_users` those idle longest are evicted.",
                    (Query(now(M.users), ""),),
                    kind="stat",
                    width=4,
                    base="blue",
                ),
                Panel(
                    "Sessions begun again",
                    "After failures of the event log, within the last hour.",
                    (Query(f"increase({now(M.restarts)}[1h])", ""),),
                    kind="stat",
                    width=4,
                    limits=((1, "yellow"), (10, "red")),
                ),
            ),
        ),
        Row(
            "Work",
            (
                Panel(
                    "Clicks in, lists out",
                    "A second, of this worker.",
                    (Query(per_second(M.clicks), "clicks"), Query(per_second(M.lists), "lists")),
                    unit="cps",
                ),
                _STAGES,
                Panel(
                    "Clicks in a batch",
                    "Mean, and 95th percentile. At `worker.max_batch_clicks` the worker is at its limit.",
                    (Query(mean(M.batch_clicks), "mean"), Query(quantile(M.batch_clicks, 0.95), "p95")),
                ),
                Panel(
                    "Freshness",
                    "Of the lists of this worker.",
                    (
                        Query(quantile(M.freshness, 0.5), "p50"),
                        Query(quantile(M.freshness, 0.95), "p95"),
                        Query(quantile(M.freshness, 0.99), "p99"),
                    ),
                    unit="s",
                    limits=((FRESHNESS_LIMIT_S, "red"),),
                ),
                Panel(
                    "Unread records",
                    "By partition. One that grows alone has more clicks than others, or a user that is a robot.",
                    (Query(now(M.consumer_lag), "{{topic}} {{partition}}"),),
                ),
                Panel(
                    "CPU",
                    "Cores in use by the process.",
                    (Query(f"rate({selected('process_cpu_seconds_total')}[$__rate_interval])", "cores"),),
                ),
            ),
        ),
        Row(
            "What it holds",
            (
                Panel(
                    "Memory of the process and of windows",
                    "Windows are allocated at the start, for `windows.max_users`. What grows without end is a fault.",
                    (
                        Query(_MEMORY, "process"),
                        Query(now(M.window_bytes), "windows"),
                        Query(now(M.memory_limit), "limit"),
                    ),
                    unit="bytes",
                ),
                Panel(
                    "Users evicted",
                    "Since the start, and those kept in memory because the disk takes none.",
                    (
                        Query(now(M.evicted_users), "evicted"),
                        Query(now(M.unspilled_users), "kept, as the disk is full"),
                    ),
                ),
                Panel(
                    "Items and searches in memory",
                    "Ids that windows and the release use; those that nobody has any more are freed.",
                    (
                        Query(now(M.items), "items"),
                        Query(now(M.stream_items), "items with neighbours from the stream"),
                        Query(now(M.held_searches), "searches"),
                        Query(now(M.freed_items), "items freed since the start"),
                    ),
                ),
                Panel(
                    "File descriptors",
                    "Open ones, and the limit.",
                    (
                        Query(selected("process_open_fds"), "open"),
                        Query(selected("process_max_fds"), "limit"),
                    ),
                ),
            ),
        ),
    ),
    one_worker=True,
)

QUALITY: Final = Dashboard(
    "quality",
    "Headrace: quality and releases",
    "Which release serves, whether it is worth it, and what became of the others.",
    (
        Row(
            "Releases",
            (
                Panel(
                    "Releases in use",
                    "Workers by release. Two at once is a swap under way, or a worker that refused the newer one.",
                    (Query(f"sum by (model, version) ({now(M.release)} == 1)", "workers"),),
                    kind="table",
                    width=12,
                ),
                Panel(
                    "Releases that went live",
                    "By all selected workers together, within the window of a point.",
                    (Query(increased(M.release_swaps), "live"),),
                    width=6,
                ),
                Panel(
                    "Releases refused",
                    "By reason. A worker that refuses one goes on with the newest that can be served.",
                    (Query(or_zero(increased(M.release_refusals, "reason")), "{{reason}}"),),
                    width=6,
                    limits=((1, "red"),),
                ),
            ),
        ),
        Row(
            "Quality",
            (
                Panel(
                    "Next click in the list, by release",
                    "Share of clicks within the last hour on the first ten items of the user's last list, and what as"
                    " many most popular items would have met. A release under the popular ones should not serve.",
                    (
                        Query(_of_deployment(NEXT_CLICK), "{{release}}"),
                        Query(_of_deployment(POPULAR), "popular items, on the clicks of {{release}}"),
                    ),
                    unit="percentunit",
                    width=16,
                ),
                Panel(
                    "Clicks that were judged",
                    "Within the last hour: below 500 the rate beside says little.",
                    (Query(_of_deployment(JUDGED), "{{release}}"),),
                ),
                Panel(
                    "Next clicks a second",
                    "Clicks that were judged, those in the list, and those among as many popular items.",
                    (
                        Query(per_second(M.next_clicks), "judged"),
                        Query(per_second(M.next_click_hits), "in the list"),
                        Query(per_second(M.next_click_popular_hits), "among the popular"),
                    ),
                    unit="cps",
                ),
                Panel(
                    "Candidates removed",
                    "A second, by reason: found by several interests (duplicate), or in the window already (seen).",
                    (Query(per_second(M.removed_candidates, "reason"), "{{reason}}"),),
                    unit="cps",
                    stacked=True,
                ),
                Panel(
                    "Recall of the index",
                    "Share of the items nearest to an interest that searches find; below 0.95 raise `index.ef_search`.",
                    (Query(f"min({now(M.index_recall)})", "recall"),),
                    unit="percentunit",
                    top=1,
                ),
                Panel(
                    "Index",
                    "Items that can be recommended, and searches that HNSW alone could not answer, a second.",
                    (
                        Query(f"max({now(M.index_items)})", "items"),
                        Query(per_second(M.exact_fallback_queries), "exact fallbacks a second"),
                    ),
                ),
            ),
        ),
        Row(
            "Drift",
            (
                Panel(
                    "Clicks on items that the release does not know",
                    "Share within the last hour; retrain when it grows. `retrain.on_drift` does so by itself.",
                    (Query(_of_deployment(UNKNOWN_ITEMS), "{{release}}"),),
                    unit="percentunit",
                    limits=((0.3, "red"),),
                ),
                Panel(
                    "Age of clicked items",
                    "Clicks a second by the time since the item's first click that is known.",
                    (Query(per_second(M.item_clicks, "age"), "{{age}}"),),
                    unit="cps",
                    stacked=True,
                ),
                Panel(
                    "Clicks, and as usual",
                    "Clicks a second over an hour, and the mean of the same hour on the seven days before.",
                    (
                        Query(_of_deployment(CLICKS_1H), "{{deployment}}"),
                        Query(_of_deployment(USUAL_CLICKS), "{{deployment}}, as usual"),
                    ),
                    unit="cps",
                ),
                Panel(
                    "Length of interests",
                    "Mean over the lists of the last hour. A step without a new release: the windows are unlike those"
                    " of the training, as by a new action or times in another unit.",
                    (Query(_of_deployment(INTEREST_NORM), "{{release}}"),),
                ),
                Panel(
                    "Interests in a list",
                    "Effective number of interests that the first ten places come from, mean of the last hour; near 1 a"
                    " single interest fills the lists.",
                    (Query(_of_deployment(LISTED_INTERESTS), "{{release}}"),),
                ),
                Panel(
                    "Clicks that drift is judged by",
                    "Clicks of positive weight on items within the last hour; below 500 no alert fires.",
                    (Query(_of_deployment(ITEM_CLICKS), "{{release}}"),),
                ),
            ),
        ),
        Row(
            "Canary",
            (
                Panel(
                    "Canary under judgement",
                    "The release that serves a share of users beside the live one; empty where there is none.",
                    (Query(f"sum by (model, version) ({now(M.canary)})", "workers"),),
                    kind="table",
                    width=6,
                ),
                Panel(
                    "Gain of the canary",
                    "Its gain minus the live release's, with always-valid bounds: it is decided on when both are"
                    " on one side of zero.",
                    (Query(f"max by (bound) ({now(M.canary_difference)})", "{{bound}}"),),
                    width=6,
                ),
                Panel(
                    "Gain by arm",
                    "Mean gain of a click (NDCG@10 of the next click), and the users judged.",
                    (
                        Query(f"max by (arm) ({now(M.canary_gain)})", "gain, {{arm}}"),
                        Query(f"max by (arm) ({now(M.canary_users)})", "users, {{arm}}"),
                    ),
                    width=6,
                ),
                Panel(
                    "Canaries decided on",
                    "By decision.",
                    (Query(or_zero(increased(M.canary_decisions, "decision")), "{{decision}}"),),
                    width=6,
                ),
            ),
        ),
        Row(
            "Experiment",
            (
                Panel(
                    "Lift by arm",
                    "Mean gain of an arm over that of the control, minus 1, with always-valid bounds for all arms.",
                    (
                        Query(
                            f"max by (experiment, arm, bound) ({now(M.experiment_lift)})",
                            "{{experiment}}, {{arm}}, {{bound}}",
                        ),
                    ),
                    width=8,
                ),
                Panel(
                    "Users by arm",
                    "Users who were sent a list, or shown one, and the mean gain of their clicks.",
                    (
                        Query(f"max by (experiment, arm) ({now(M.experiment_users)})", "users, {{arm}}"),
                        Query(f"max by (experiment, arm) ({now(M.experiment_gain)})", "gain, {{arm}}"),
                    ),
                    width=6,
                ),
                Panel(
                    "Sample ratio",
                    "Probability of numbers of users as far from the shares as these: below 0.001 the experiment is not"
                    " to be read.",
                    (Query(f"min by (experiment) ({now(M.experiment_sample_ratio)})", "{{experiment}}"),),
                    width=5,
                ),
                Panel(
                    "Impressions",
                    "Reports of what was shown, where a canary or experiment is judged by them: of a list of the user's"
                    " arm, or of no arm.",
                    (Query(or_zero(_increase_of_any(M.trial_impressions, "outcome")), "{{outcome}}"),),
                    width=5,
                ),
            ),
        ),
        Row(
            "Training",
            (
                Panel(
                    "Last training that succeeded",
                    "Time since then; two days are overdue.",
                    (Query(f"time() - max({of_deployment(M.retraining_success)} > 0)", "since"),),
                    unit="s",
                    kind="stat",
                    width=6,
                ),
                Panel(
                    "Next training",
                    "Time until then, and whether a retrainer is elected.",
                    (
                        Query(f"max({of_deployment(M.retraining_due)} > 0) - time()", "until"),
                        Query(f"sum({of_deployment(M.retraining_elected)})", "elected"),
                    ),
                    kind="stat",
                    width=6,
                ),
                Panel(
                    "Unknown items in the archive",
                    "Share of the clicks since the live release on items that it does not know, as the retrainer sees"
                    " it where `retrain.on_drift` is set; from `retrain.drift_share` on it retrains.",
                    (Query(f"max({of_deployment(M.retraining_unknown_share)})", "share"),),
                    unit="percentunit",
                    width=6,
                ),
                Panel(
                    "Trainings by outcome",
                    "Within the window of a point.",
                    (Query(or_zero(_increase_of_any(M.retrainings, "outcome")), "{{outcome}}"),),
                    width=6,
                ),
                Panel(
                    "Duration of a training",
                    "Of the last one.",
                    (Query(f"max({of_deployment(M.retraining_seconds)})", "last"),),
                    unit="s",
                    width=6,
                ),
            ),
        ),
    ),
)

RECOVERY: Final = Dashboard(
    "recovery",
    "Headrace: Kafka and recovery",
    "What the brokers do to the workers, and how windows come back.",
    (
        Row(
            "Kafka",
            (
                Panel(
                    "Unread records by topic",
                    "Records that no worker has read yet.",
                    (Query(f"sum by (topic) ({now(M.consumer_lag)})", "{{topic}}"),),
                ),
                Panel(
                    "Time since a broker answered",
                    "By worker; above five seconds a worker is not ready.",
                    (Query(now(M.broker_silent), "{{instance}}"),),
                    unit="s",
                    limits=((SILENT_S, "red"),),
                ),
                Panel(
                    "Sessions begun again",
                    "By worker. A few after the death of a broker are right; a steady rate is not.",
                    (Query(increased(M.restarts, "instance"), "{{instance}}"),),
                ),
            ),
        ),
        Row(
            "Windows come back",
            (
                Panel(
                    "Partitions being restored",
                    "Their users get no new lists until it is done. Those on standby are kept warm for a takeover.",
                    (
                        Query(f"sum({now(M.restoring)})", "being restored"),
                        Query(f"sum({now(M.standby)})", "on standby"),
                    ),
                ),
                Panel(
                    "Windows restored, by source",
                    "A second: from the changelog, a local snapshot, or a standby.",
                    (Query(or_zero(per_second(M.restored_users, "source")), "{{source}}"),),
                    unit="cps",
                    stacked=True,
                ),
                Panel(
                    "Time spent restoring",
                    "Seconds a second, of all selected workers.",
                    (Query(per_second(M.restore_seconds), "restoring"),),
                    unit="s",
                ),
                Panel(
                    "Snapshots that failed",
                    "Written in vain, or not usable at a restart: the changelog is read in their place.",
                    (
                        Query(increased(M.failed_snapshots), "not written"),
                        Query(or_zero(increased(M.refused_snapshots, "reason")), "not used: {{reason}}"),
                    ),
                ),
            ),
        ),
        Row(
            "Losses",
            (
                Panel(
                    "Records that could not be kept",
                    "Any line above zero is in docs/runbook.md.",
                    (
                        Query(increased(M.deleted_records), "deleted by retention, unread"),
                        Query(increased(M.unsent_dead_letters), "dead letters refused"),
                        Query(increased(M.cut_dead_letters), "dead letters cut"),
                        Query(increased(M.set_aside_windows), "windows that cannot be read"),
                    ),
                ),
                Panel(
                    "Clicks that are not keyed by user",
                    "By the sign of it: windows in parts. See the README on keys.",
                    (Query(per_second(M.misplaced_clicks, "sign"), "{{sign}}"),),
                    unit="cps",
                ),
                Panel(
                    "Users forgotten",
                    "Deleted on request, with window and list.",
                    (Query(increased(M.forgotten_users), "users"),),
                ),
            ),
        ),
        Row(
            "Archive",
            (
                Panel(
                    "Clicks archived",
                    "A second.",
                    (Query(f"sum(rate({of_deployment(M.archived_clicks)}[$__rate_interval]))", "clicks"),),
                    unit="cps",
                ),
                Panel(
                    "Oldest click that waits for a file",
                    "It grows to `archive.file_age_s`, and falls when a file is written.",
                    (Query(f"max({of_deployment(M.archive_unwritten)})", "waits"),),
                    unit="s",
                ),
                Panel(
                    "Files of the archive",
                    "New ones, compacted ones, deleted ones.",
                    (Query(or_zero(_increase_of_any(M.archive_files, "change")), "{{change}}"),),
                ),
            ),
        ),
    ),
)


def _rate_of_requests(metric: AnyMetric, by: str) -> str:
    return f"sum by ({by}) (rate({of_deployment(metric)}[$__rate_interval]))"


def _request_quantile(share: float) -> str:
    buckets = f"{name(S.request_seconds)}_bucket{{{OF_DEPLOYMENT}}}"
    return f"histogram_quantile({share}, sum by (le) (rate({buckets}[$__rate_interval])))"


def _mean_of_requests() -> str:
    total, count = (f"{name(S.batch_requests)}_{part}{{{OF_DEPLOYMENT}}}" for part in ("sum", "count"))
    return f"sum(rate({total}[$__rate_interval])) / (sum(rate({count}[$__rate_interval])) > 0)"


REQUESTS: Final = Dashboard(
    "requests",
    "Headrace: requests",
    "How many ask `headrace serve`, how long they wait, and who is turned away.",
    (
        Row(
            "Requests",
            (
                Panel(
                    "Requests by path",
                    "Answered, a second.",
                    (Query(or_zero(_rate_of_requests(S.requests, "path")), "{{path}}"),),
                    unit="cps",
                    stacked=True,
                ),
                Panel(
                    "Requests by status",
                    "Answered, a second; 503 are those that were turned away.",
                    (Query(or_zero(_rate_of_requests(S.requests, "status")), "{{status}}"),),
                    unit="cps",
                ),
                Panel(
                    "Time to an answer",
                    "From the head of a request to the head of its answer.",
                    (
                        Query(or_zero(_request_quantile(0.5)), "p50"),
                        Query(or_zero(_request_quantile(0.99)), "p99"),
                    ),
                    unit="s",
                    limits=((0.03, "red"),),
                ),
                Panel(
                    "Turned away",
                    "A second, by reason: queue, streams, rate or connections.",
                    (Query(or_zero(_rate_of_requests(S.shed_requests, "reason")), "{{reason}}"),),
                    unit="cps",
                ),
                Panel(
                    "Impressions reported",
                    "Reports a second that are on the topic of impressions, by whether the server knew their decision.",
                    (Query(or_zero(_rate_of_requests(S.impressions, "decision")), "{{decision}}"),),
                    unit="cps",
                ),
                Panel(
                    "Waiting to be computed",
                    "At `serve.max_waiting` requests are turned away.",
                    (Query(or_zero(f"sum({of_deployment(S.waiting_requests)})"), "waiting"),),
                ),
                Panel(
                    "Computed together",
                    "Mean number of requests in a batch.",
                    (Query(or_zero(_mean_of_requests()), "mean"),),
                ),
                Panel(
                    "Lists held",
                    "Users whose last pushed list is held, of each server.",
                    (Query(or_zero(of_deployment(S.stored_lists)), "{{instance}}"),),
                ),
                Panel(
                    "Streams open",
                    "Readers of server-sent events; at `serve.max_streams` further ones are turned away.",
                    (Query(or_zero(f"sum({of_deployment(S.streams)})"), "streams"),),
                ),
            ),
        ),
    ),
)

DASHBOARDS: Final = (OVERVIEW, WORKER, QUALITY, RECOVERY, REQUESTS)
