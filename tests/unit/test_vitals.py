"""Whether a worker lives, as gauges; and the memory that it may use."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.metrics import Metrics
from engine.worker import vitals


@dataclass
class Condition:
    not_ready: str | None = None
    loop_idle_s: float = 0.0
    broker_silent_s: float = 0.0


def test_gauges_follow_the_worker_at_each_scrape() -> None:
    worker, metrics = Condition(), Metrics()
    vitals.watch(worker, metrics)
    names = ("headrace_ready", "headrace_loop_idle_seconds", "headrace_broker_silent_seconds")
    assert [metrics.registry.get_sample_value(name) for name in names] == [1.0, 0.0, 0.0]
    worker.not_ready, worker.loop_idle_s, worker.broker_silent_s = "no release is live yet", 61.0, 7.5
    assert [metrics.registry.get_sample_value(name) for name in names] == [0.0, 61.0, 7.5]


@pytest.mark.parametrize(
    ("texts", "expected"), [(["1073741824\n"], 1 << 30), (["max\n"], None), ([], None), (["max", "4096"], 4096)]
)
def test_the_limit_is_that_of_the_container_or_of_the_machine(
    texts: list[str], expected: int | None, tmp_path: Path
) -> None:
    paths = [tmp_path / str(number) for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    machine = vitals.memory_limit_bytes(limits=())
    assert vitals.memory_limit_bytes((*paths, tmp_path / "absent")) == (expected or machine)
    assert machine > 1 << 30
