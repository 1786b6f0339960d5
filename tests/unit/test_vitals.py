"""Whether a worker lives, as gauges; and the memory that it may use."""

import os
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


@pytest.mark.parametrize("group", ["", "system.slice/headrace.service"], ids=["container", "service"])
@pytest.mark.parametrize(("text", "expected"), [("1073741824\n", 1 << 30), ("max\n", None), (None, None)])
def test_the_limit_is_that_of_the_own_control_group_or_of_the_machine(
    group: str, text: str | None, expected: int | None, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(f"1:name=systemd:/else\n0::/{group}\n")
    (tmp_path / "mounted" / group).mkdir(parents=True)
    if text is not None:
        (tmp_path / "mounted" / group / "memory.max").write_text(text)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert vitals.memory_limit_bytes(tmp_path / "mounted", tmp_path / "cgroup") == (expected or machine)


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert vitals.memory_limit_bytes(tmp_path, tmp_path / "absent") > 1 << 28
