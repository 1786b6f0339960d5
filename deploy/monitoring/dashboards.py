"""The four dashboards: what is on them, and how it is read."""

from typing import Final

from deploy.monitoring.panels import Colour, Dashboard, Panel, Query, Row
from deploy.monitoring.rules import (
    DEAD_SHARE,
    DEAD_SHARE_LIMIT,
    FRESHNESS_LIMIT_S,
    FRESHNESS_P50,
    FRESHNESS_P99,
    JUDGED,
    LAG,
    LAG_LIMIT_S,
    MEMORY_SHARE_LIMIT,
    NEXT_CLICK,
    POPULAR,
    SILENT_S,
    STALLED_S,
    Recorded,
)
from deploy.monitoring.series import M, increased, mean, name, now, or_zero, per_second, quantile, selected

RELEASE_CHANGES: Final = f"changes({now(M.release_swaps)}[$__interval]) > 0"
"""Above 0 where a worker took a new release."""
EVERY_WORKER: Final = name(M.ready)

_MEMORY: Final = selected("process_resident_memory_bytes")
_YES_NO: Final[dict[str, tuple[str, Colour]]] = {"0": ("no", "red"), "1": ("yes", "green")}


def _of_deployment(recorded: Recorded) -> str:
    """A recorded series, which has deployments and no workers."""
    return f'{recorded.name}{{deployment=~"$deployment"}}'


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
                    "Index",
                    "Items that can be recommended, and searches that HNSW alone could not answer, a second.",
                    (
                        Query(f"max({now(M.index_items)})", "items"),
                        Query(per_second(M.exact_fallback_queries), "exact fallbacks a second"),
                    ),
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
    ),
)

DASHBOARDS: Final = (OVERVIEW, WORKER, QUALITY, RECOVERY)
