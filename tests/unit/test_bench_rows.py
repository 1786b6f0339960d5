"""Figures of a benchmark as rows of JSON: each says what it was measured on, and how to get it again."""

import json
import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner

from producers.bench import rows
from producers.cli.bench import bench


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_measurement_is_a_row_that_can_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    options = ["--items", "2000", "--users", "64", "--batch", "32", "--batches", "2", "--neighbours", "0"]
    first = CliRunner().invoke(bench, ["throughput", *options, "--json", "--rows", str(path)], catch_exceptions=False)
    (row,) = read(path)
    assert row["figures"] == json.loads(first.stdout)
    program, verb, *arguments = shlex.split(str(row["command"]))
    assert (program, verb, arguments) == ("headrace", "bench", ["throughput", *options])
    CliRunner().invoke(bench, [*arguments, "--rows", str(path)], catch_exceptions=False)
    again = read(path)[1]
    assert again["command"] == row["command"]
    assert again["commit"] == row["commit"]


def test_a_row_says_when_and_on_what_machine(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    rows.append(tmp_path / "rows.jsonl", "pytest -s tests/benchmarks", {"bytes_per_user": 1150.0})
    (row,) = read(tmp_path / "rows.jsonl")
    assert row.keys() == {"date", "commit", "version", "machine", "command", "figures"}
    assert before <= datetime.fromisoformat(str(row["date"])) <= datetime.now(UTC)
    machine = row["machine"]
    assert isinstance(machine, dict)
    assert machine["cores"] == len(os.sched_getaffinity(0))
    assert machine["cpu"]
    assert row["figures"] == {"bytes_per_user": 1150.0}
