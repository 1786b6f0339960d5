"""Dashboards, rules and the page of metrics, made from the metrics that the engine defines.

    python -m deploy.monitoring        # writes what is generated: run it after a change of a metric, a panel or a rule

A metric is an attribute of `engine.metrics.Metrics` here, never a text: a name that does not exist cannot be written.

- Another panel: `dashboards.py`.
- Another rule or alert: `rules.py`, an entry in docs/runbook.md under the alert's name, a case in
  deploy/prometheus/tests.yml.
- Another program with metrics: `SOURCES` in `series.py`, and its service in deploy/prometheus/prometheus.yml.
"""
