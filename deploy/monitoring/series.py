"""Names of the series that queries read, taken from the metrics themselves."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from engine.metrics import Metrics, ServeMetrics

M: Final = Metrics()
S: Final = ServeMetrics()
SOURCES: Final[dict[str, object]] = {"headrace run": M, "headrace serve": S}
"""By program, the object whose attributes are its metrics; `archive` and `retrain` have those of `run`, most at 0."""

PROCESS: Final = ("process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_resident_memory_bytes")
"""Series that the Prometheus client adds to every program."""

WORKERS: Final = 'service=~"worker|"'
"""Other programs have the gauges of workers, too, at 0. A scrape without the label `service` is one of workers."""
SELECTED: Final = f'deployment=~"$deployment", instance=~"$worker", {WORKERS}'
"""The deployments and workers that are selected above a dashboard."""
OF_DEPLOYMENT: Final = 'deployment=~"$deployment"'
"""Whatever program it is."""
WINDOW: Final = "$__rate_interval"
"""Grafana's window: four scrapes, or more where the screen has less room."""

AnyMetric = Counter | Gauge | Histogram


def name(metric: AnyMetric) -> str:
    """The name of a metric's series; that of a histogram is without its suffixes."""
    (family,) = metric.collect()
    return f"{family.name}_total" if isinstance(metric, Counter) else str(family.name)


def selected(series: str) -> str:
    """A series of the selected deployments and workers."""
    return f"{series}{{{SELECTED}}}"


def now(metric: AnyMetric) -> str:
    """The present values of a gauge or counter, of the selected workers."""
    return selected(name(metric))


def of_deployment(metric: AnyMetric) -> str:
    """The present values of a metric of any program."""
    return f"{name(metric)}{{{OF_DEPLOYMENT}}}"


def per_second(metric: AnyMetric, by: str = "") -> str:
    """The increase of a counter a second, of all selected workers together, by labels."""
    return f"sum by ({by}) (rate({now(metric)}[{WINDOW}]))" if by else f"sum(rate({now(metric)}[{WINDOW}]))"


def increased(metric: AnyMetric, by: str = "") -> str:
    """The increase of a counter within the window of a point, by labels."""
    return f"sum by ({by}) (increase({now(metric)}[{WINDOW}]))" if by else f"sum(increase({now(metric)}[{WINDOW}]))"


def quantile(metric: Histogram, share: float) -> str:
    """A quantile of a histogram of the selected workers."""
    buckets = f"sum by (le) (rate({selected(name(metric) + '_bucket')}[{WINDOW}]))"
    return f"histogram_quantile({share}, {buckets})"


def mean(metric: Histogram) -> str:
    """The mean of a histogram's observations, of the selected workers."""
    total, count = (f"sum(rate({selected(name(metric) + suffix)}[{WINDOW}]))" for suffix in ("_sum", "_count"))
    return f"{total} / {count}"


def or_zero(query: str) -> str:
    """The same, with 0 where there is no series yet."""
    return f"({query}) or vector(0)"
