"""The HTTP interface does what its own description says: schemathesis asks, in this process, without a socket."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.integration.served import Served, serving

schemathesis = pytest.importorskip("schemathesis", reason="asks by the description: pip install 'headrace[dev]'")

EXAMPLES = 200 if os.environ.get("LONG_TESTS") == "1" else 5
STREAMS = {"/v1/events", "/v1/figures"}
"""Paths that never end their answer."""


@pytest.fixture(scope="module")
def served(tiny_release: Path) -> Iterator[Served]:
    # Bodies of wrong values may be large, and 413 is no refusal of a value to schemathesis.
    with serving(tiny_release, impressions=True, without_keys=True, max_request_kib=4096) as running:
        running.click(("ann", "i10"), ("bob", "i70"))
        yield running


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the generators' own libraries
def test_answers_are_as_described(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.server.address}/v1/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations() if result.ok().path not in STREAMS]
    assert len(operations) >= 15
    for operation in operations:
        ask_as_described(operation, schemathesis.GenerationMode.POSITIVE)
        if {"parameters", "requestBody"} & operation.definition.raw.keys():
            ask_as_described(operation, schemathesis.GenerationMode.NEGATIVE)


def ask_as_described(operation: Any, mode: Any) -> None:
    """Send what is allowed, or what is not, and check the answers."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: Any) -> None:
        case.call_and_validate()

    ask()


def test_every_path_but_the_streams_is_asked(served: Served) -> None:
    paths = set(served.get("/v1/openapi.json").json()["paths"])
    assert paths >= STREAMS | {"/v1/list", "/v1/lists", "/v1/session", "/v1/next", "/v1/rank", "/v1/similar"}
