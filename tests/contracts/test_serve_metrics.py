"""The names of the server's metrics, on which dashboards and alerts are built."""

from engine.metrics import Metrics, ServeMetrics

OF_REQUESTS = {
    "headrace_batch_requests": "histogram",
    "headrace_impressions": "counter",
    "headrace_request_seconds": "histogram",
    "headrace_requests": "counter",
    "headrace_shed_requests": "counter",
    "headrace_stored_lists": "gauge",
    "headrace_streams": "gauge",
    "headrace_waiting_requests": "gauge",
}


def test_a_server_has_the_metrics_of_a_worker_and_those_of_requests() -> None:
    of_worker = {family.name for family in Metrics().registry.collect()}
    kinds = {family.name: family.type for family in ServeMetrics().registry.collect() if family.name not in of_worker}
    assert kinds == OF_REQUESTS
