"""Recording rules and alerts. Each alert has an entry in docs/runbook.md, and cases in deploy/prometheus/tests.yml."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from deploy.monitoring.series import WORKERS, AnyMetric, M, name

JOB: Final = "headrace"
"""The job of deploy/prometheus/prometheus.yml that scrapes everything of a deployment."""

LAG_LIMIT_S: Final = 60
FRESHNESS_LIMIT_S: Final = 1
DEAD_SHARE_LIMIT: Final = 0.05
MEMORY_SHARE_LIMIT: Final = 0.9
STALLED_S: Final = 60
"""As `/healthz` has it."""
SILENT_S: Final = 30
NEXT_CLICK_DROP: Final = 0.8
"""Of the day's mean: less than this share of it is a drop."""
FEW_CLICKS: Final = 500
"""Judged clicks in an hour, below which the next-click rate is left alone: its standard error is two points there."""
UNKNOWN_SHARE_LIMIT: Final = 0.3
NORM_CHANGE_LIMIT: Final = 0.2
"""Of the day's mean length of interests."""
UNUSUAL_FACTOR: Final = 3
"""Ratio of the clicks of an hour to those of the same hour on earlier days, or its inverse."""
SAMPLE_RATIO_LIMIT: Final = 0.001
"""As in the report of an experiment."""
ARCHIVE_LIMIT_S: Final = 3600
RETRAIN_LIMIT_S: Final = 2 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Recorded:
    """A series that Prometheus computes from others, under the name LEVEL:METRIC:OPERATION."""

    name: str
    query: str


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that somebody has to know of; the heading in docs/runbook.md is its name."""

    name: str
    query: str
    lasts: str
    """Time for which the condition must hold before the alert fires."""
    severity: Literal["critical", "warning"]
    """critical: lists or clicks are being lost, or nobody is served. warning: within the day."""
    summary: str


def _sum_rate(metric: AnyMetric, by: str = "deployment", window: str = "5m") -> str:
    return f"sum by ({by}) (rate({name(metric)}[{window}]))"


def _quantile(share: float) -> str:
    return f"histogram_quantile({share}, sum by (deployment, le) (rate({name(M.freshness)}_bucket[5m])))"


def _share_of_next_clicks(hits: AnyMetric) -> str:
    hits_1h, clicks_1h = (
        f"sum by (deployment, release) (increase({name(metric)}[1h]))" for metric in (hits, M.next_clicks)
    )
    return f"{hits_1h} / ({clicks_1h} > 0)"


def _hourly_ratio(numerator: AnyMetric, denominator: AnyMetric) -> str:
    above, below = (
        f"sum by (deployment, release) (increase({name(metric)}[1h]))" for metric in (numerator, denominator)
    )
    return f"{above} / ({below} > 0)"


def _same_hour_of_earlier_days(series: str, days: int = 7) -> str:
    """Mean of a series at the same time on each of the last days of which it is recorded."""
    of_days = (f'label_replace({series} offset {day}d, "day", "{day}", "", "")' for day in range(1, days + 1))
    return f"avg by (deployment) ({' or '.join(of_days)})"


def _happened(metric: AnyMetric, window: str = "15m") -> str:
    """A counter that increased, or whose series began: `increase` does not see a first value."""
    return f"increase({name(metric)}[{window}]) > 0 or ({name(metric)} > 0 unless {name(metric)} offset {window})"


CLICKS: Final = Recorded("deployment:headrace_clicks:rate5m", _sum_rate(M.clicks))
LISTS: Final = Recorded("deployment:headrace_lists:rate5m", _sum_rate(M.lists))
FRESHNESS_P50: Final = Recorded("deployment:headrace_freshness_seconds:p50_5m", _quantile(0.5))
FRESHNESS_P99: Final = Recorded("deployment:headrace_freshness_seconds:p99_5m", _quantile(0.99))
LAG: Final = Recorded(
    "deployment:headrace_consumer_lag_seconds:max", f"max by (deployment) ({name(M.consumer_lag_seconds)})"
)
_DEAD: Final = f"({_sum_rate(M.dead_letters)} or {_sum_rate(M.clicks)} * 0)"
"""Dead letters a second: 0, and not nothing, before there is any."""
DEAD_SHARE: Final = Recorded(
    "deployment:headrace_dead_letters:share5m",
    f"{_DEAD} / ({_DEAD} + {_sum_rate(M.clicks)} > 0)",
)
NEXT_CLICK: Final = Recorded("deployment_release:headrace_next_click:share1h", _share_of_next_clicks(M.next_click_hits))
POPULAR: Final = Recorded(
    "deployment_release:headrace_next_click_popular:share1h", _share_of_next_clicks(M.next_click_popular_hits)
)
JUDGED: Final = Recorded(
    "deployment_release:headrace_next_clicks:increase1h",
    f"sum by (deployment, release) (increase({name(M.next_clicks)}[1h]))",
)
UNKNOWN_ITEMS: Final = Recorded(
    "deployment_release:headrace_unknown_item_clicks:share1h", _hourly_ratio(M.unknown_item_clicks, M.item_clicks)
)
ITEM_CLICKS: Final = Recorded(
    "deployment_release:headrace_item_clicks:increase1h",
    f"sum by (deployment, release) (increase({name(M.item_clicks)}[1h]))",
)
INTEREST_NORM: Final = Recorded(
    "deployment_release:headrace_interest_norms:mean1h", _hourly_ratio(M.interest_norms, M.interest_lists)
)
LISTED_INTERESTS: Final = Recorded(
    "deployment_release:headrace_listed_interests:mean1h", _hourly_ratio(M.listed_interests, M.interest_lists)
)
CLICKS_1H: Final = Recorded("deployment:headrace_clicks:rate1h", _sum_rate(M.clicks, window="1h"))
USUAL_CLICKS: Final = Recorded("deployment:headrace_clicks:usual1h", _same_hour_of_earlier_days(CLICKS_1H.name))

RECORDED: Final = (
    *(CLICKS, LISTS, FRESHNESS_P50, FRESHNESS_P99, LAG, DEAD_SHARE, NEXT_CLICK, POPULAR, JUDGED),
    *(UNKNOWN_ITEMS, ITEM_CLICKS, INTEREST_NORM, LISTED_INTERESTS, CLICKS_1H, USUAL_CLICKS),
)

ALERTS: Final = (
    Alert(
        "HeadraceWorkerDown",
        f'up{{job="{JOB}"}} == 0',
        *("2m", "critical", "{{ $labels.instance }} of {{ $labels.deployment }} does not answer scrapes"),
    ),
    Alert(
        "HeadraceWorkerStalled",
        f"{name(M.loop_idle)} > {STALLED_S}",
        *("1m", "critical", "the loop of {{ $labels.instance }} has not turned for {{ $value | humanizeDuration }}"),
    ),
    Alert(
        "HeadraceNobodyServes",
        f"max by (deployment) ({name(M.ready)}{{{WORKERS}}}) == 0",
        *("5m", "critical", "no worker of {{ $labels.deployment }} is ready"),
    ),
    Alert(
        "HeadraceBrokerUnreachable",
        f"{name(M.broker_silent)} > {SILENT_S} or increase({name(M.restarts)}[5m]) > 3",
        *("1m", "critical", "{{ $labels.instance }} reaches no broker, or loses it again and again"),
    ),
    Alert(
        "HeadraceNoClicks",
        f"{CLICKS.name} == 0 and avg_over_time({CLICKS.name}[1d]) > 0.1",
        *("15m", "warning", "{{ $labels.deployment }} reads no clicks, where there were some within the day"),
    ),
    Alert(
        "HeadraceLagGrows",
        f"{LAG.name} > {LAG_LIMIT_S}",
        *("5m", "warning", "{{ $labels.deployment }} is {{ $value | humanizeDuration }} late"),
    ),
    Alert(
        "HeadraceFreshnessSlow",
        f"{FRESHNESS_P99.name} > {FRESHNESS_LIMIT_S}",
        *("10m", "warning", "99 of 100 lists of {{ $labels.deployment }} take {{ $value | humanizeDuration }}"),
    ),
    Alert(
        "HeadraceDeadLetters",
        f"{DEAD_SHARE.name} > {DEAD_SHARE_LIMIT}",
        *(
            "10m",
            "warning",
            "of {{ $labels.deployment }}, {{ $value | humanizePercentage }} of the records are no clicks",
        ),
    ),
    Alert(
        "HeadraceDeadLettersLost",
        _happened(M.unsent_dead_letters),
        *("0m", "critical", "the topic of dead letters refuses letters of {{ $labels.instance }}"),
    ),
    Alert(
        "HeadraceClicksDeleted",
        _happened(M.deleted_records),
        *("0m", "critical", "retention deleted clicks of {{ $labels.deployment }} before they were read"),
    ),
    Alert(
        "HeadraceClicksMisplaced",
        _happened(M.misplaced_clicks),
        *("0m", "warning", "clicks of {{ $labels.deployment }} are not keyed by user ({{ $labels.sign }})"),
    ),
    Alert(
        "HeadraceRestoreSlow",
        f"{name(M.restoring)} > 0",
        *("10m", "warning", "{{ $labels.instance }} has been restoring windows for ten minutes"),
    ),
    Alert(
        "HeadraceReleaseRefused",
        _happened(M.release_refusals),
        *("0m", "warning", "{{ $labels.instance }} refused a release: {{ $labels.reason }}"),
    ),
    Alert(
        "HeadraceNextClickDrop",
        f"{NEXT_CLICK.name} < {NEXT_CLICK_DROP} * avg_over_time({NEXT_CLICK.name}[1d])"
        f" and {JUDGED.name} > {FEW_CLICKS}",
        *("30m", "warning", "the next-click rate of {{ $labels.release }} fell to {{ $value | humanizePercentage }}"),
    ),
    Alert(
        "HeadraceWorseThanPopular",
        f"{NEXT_CLICK.name} < {POPULAR.name} and {JUDGED.name} > {FEW_CLICKS}",
        *("1h", "warning", "popular items would meet more next clicks than {{ $labels.release }} does"),
    ),
    Alert(
        "HeadraceUnknownItems",
        f"{UNKNOWN_ITEMS.name} > {UNKNOWN_SHARE_LIMIT} and {ITEM_CLICKS.name} > {FEW_CLICKS}",
        *(
            "1h",
            "warning",
            "{{ $labels.release }} does not know the items of {{ $value | humanizePercentage }} of clicks",
        ),
    ),
    Alert(
        "HeadraceInterestsMoved",
        f"abs({INTEREST_NORM.name} / avg_over_time({INTEREST_NORM.name}[1d]) - 1) > {NORM_CHANGE_LIMIT}"
        f" and {ITEM_CLICKS.name} > {FEW_CLICKS}",
        *(
            "30m",
            "warning",
            "interests by {{ $labels.release }} are {{ $value | humanizePercentage }} off their length of the day",
        ),
    ),
    Alert(
        "HeadraceClicksUnusual",
        f"({CLICKS_1H.name} > {UNUSUAL_FACTOR} * {USUAL_CLICKS.name}"
        f" or {CLICKS_1H.name} < {USUAL_CLICKS.name} / {UNUSUAL_FACTOR}) and {USUAL_CLICKS.name} > 0.1",
        *(
            "30m",
            "warning",
            "{{ $labels.deployment }} reads {{ $value | humanize }} clicks a second, unlike at this time of other days",
        ),
    ),
    Alert(
        "HeadraceExperimentMismatch",
        f"min by (deployment, experiment) ({name(M.experiment_sample_ratio)}) < {SAMPLE_RATIO_LIMIT}",
        *("5m", "warning", "the arms of {{ $labels.experiment }} do not have the users that their shares promise"),
    ),
    Alert(
        "HeadraceMemoryHigh",
        f"process_resident_memory_bytes / ({name(M.memory_limit)} > 0) > {MEMORY_SHARE_LIMIT}",
        *("10m", "warning", "{{ $labels.instance }} has {{ $value | humanizePercentage }} of the memory it may use"),
    ),
    Alert(
        "HeadraceDiskFull",
        f"{name(M.unspilled_users)} > 0 or increase({name(M.failed_snapshots)}[15m]) > 0",
        *("5m", "warning", "{{ $labels.instance }} cannot write evicted windows or snapshots"),
    ),
    Alert(
        "HeadraceArchiveStale",
        f"max by (deployment) ({name(M.archive_unwritten)}) > {ARCHIVE_LIMIT_S}",
        *(
            "5m",
            "warning",
            "clicks of {{ $labels.deployment }} wait for the archive for {{ $value | humanizeDuration }}",
        ),
    ),
    Alert(
        "HeadraceRetrainOverdue",
        f"time() - max by (deployment) ({name(M.retraining_success)} > 0) > {RETRAIN_LIMIT_S}",
        *("5m", "warning", "{{ $labels.deployment }} was last trained {{ $value | humanizeDuration }} ago"),
    ),
)


def recording_rules() -> dict[str, Any]:
    """The file of recording rules."""
    return {"groups": [{"name": "headrace-recorded", "rules": [{"record": r.name, "expr": r.query} for r in RECORDED]}]}


def alert_rules() -> dict[str, Any]:
    """The file of alerts."""
    return {"groups": [{"name": "headrace-alerts", "rules": list(_alerts())}]}


def _alerts() -> Iterator[dict[str, Any]]:
    for alert in ALERTS:
        yield {
            "alert": alert.name,
            "expr": alert.query,
            "for": alert.lasts,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "runbook": f"docs/runbook.md#{alert.name.lower()}"},
        }
