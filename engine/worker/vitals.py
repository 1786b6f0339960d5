"""Gauges by which others see whether a worker lives: its loop, its readiness, the brokers and the room in memory."""

import os
from pathlib import Path
from typing import Final, Protocol

from engine.metrics import Metrics

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


class WatchedWorker(Protocol):
    """The worker's side of these gauges; read by the thread that answers scrapes."""

    @property
    def not_ready(self) -> str | None:
        """Why it serves nobody; None when it does."""

    @property
    def loop_idle_s(self) -> float:
        """Time since the last turn of its loop."""

    @property
    def broker_silent_s(self) -> float:
        """Time since any broker answered it; 0 without a session."""


def watch(worker: WatchedWorker, metrics: Metrics) -> None:
    """Let these gauges be computed whenever they are scraped."""
    metrics.ready.set_function(lambda: float(worker.not_ready is None))
    metrics.loop_idle.set_function(lambda: worker.loop_idle_s)
    metrics.broker_silent.set_function(lambda: worker.broker_silent_s)
    metrics.memory_limit.set(memory_limit_bytes())


def memory_limit_bytes(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Memory that this process may use: its control group's limit, or the machine's memory where that is less.

    Args:
        cgroups: where control groups (version 2) are mounted.
        own: names that of this process; in a container it is the root.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    paths = [cgroups / line.removeprefix("0::/") / "memory.max" for line in lines if line.startswith("0::/")]
    texts = [path.read_text(encoding="ascii").strip() for path in paths if path.is_file()]
    return min([machine, *(int(text) for text in texts if text.isdigit())])  # "max": no limit
