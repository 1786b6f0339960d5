"""The engine beside its floor, small enough for every run: `headrace bench throughput` is the real measurement."""

import pytest

from producers.bench.throughput import Load, measure
from producers.demo.bundled import DEMO_RELEASE


def test_the_engine_stays_near_its_floor() -> None:
    found = measure(Load(items=20_000, users=512, batch=128, batches=12), DEMO_RELEASE)
    assert found["ratio"] <= 2.0
    assert found["cpu_us_per_list"] > found["floor_cpu_us_per_list"] * 0.9
    assert sum(found["stage_shares"].values()) == pytest.approx(1.0)
    assert {"decode", "windows", "encode", "search", "rank", "messages", "deliver"} <= found["stage_shares"].keys()
