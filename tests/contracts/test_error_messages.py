"""What users are told when something is wrong: one row for each kind of error.

A message names the setting, field, file or topic, what was found, what was expected, and the way out. Every `raise` of
a HeadraceError in the engine is reached by a row, or by a test that is named in ELSEWHERE.
"""

import ast
import functools
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine import errors
from engine.errors import HeadraceError
from engine.eventlog.kafka import KafkaLog
from tests.contracts.documents import ROOT
from tests.contracts.mistakes import data, releases, settings, streams, view
from tests.contracts.mistakes.row import Names, Row
from tests.integration.conftest import kafka_bootstrap, kafka_log, kafka_settings, topic_names

__all__ = ["kafka_bootstrap", "kafka_log", "kafka_settings", "topic_names"]  # fixtures, used by name

ROWS = [*settings.ROWS, *releases.ROWS, *streams.ROWS, *data.ROWS, *view.ROWS]

ELSEWHERE = {
    "engine/cli/releases.py _opened": "tests/integration/test_rollback.py",
    "engine/cli/repartition.py repartition": "tests/integration/test_topics.py",
    "engine/cli/topics.py create_topics": "tests/integration/test_topics.py",
    "engine/eventlog/kafka/group_positions.py refuse_members": "tests/integration/test_topics.py",
    "engine/eventlog/kafka/log.py KafkaLog._open": "tests/integration/test_kafka_log.py",
    "engine/eventlog/kafka/log.py KafkaLog.end_abandoned": "tests/integration/test_unended.py",
    "engine/eventlog/kafka/output.py Output._wait_for": "tests/integration/test_kafka_log.py",
    "engine/eventlog/kafka/output.py Transactions._finish": "tests/integration/test_kafka_log.py",
    "engine/eventlog/commit_steps.py Holder.check": "tests/integration/test_transactions.py",
    "engine/eventlog/kafka/stall_detector.py StallDetector._look": "tests/integration/test_kafka_log.py",
    "engine/interactions/archive_folder.py ArchiveFolder._changing": "tests/unit/test_archive_reading.py",
    "engine/interactions/archive_folder.py ArchiveFolder._listed": "tests/properties/test_archive_commits.py",
    "engine/interactions/archive_folder.py ArchiveFolder.parts": "tests/properties/test_archive_commits.py",
    "engine/interactions/archive_table.py ArchiveTable._of_partition": "tests/properties/test_archive_commits.py",
    "engine/interactions/archive_writer.py ArchiveWriter._check_topic": "tests/properties/test_archive_commits.py",
    "engine/worker/archiver.py ArchiveStream.__init__": "tests/unit/test_archive_reading.py",
    "engine/releases/bundle_files.py check_folder": "tests/unit/test_hostile_bundles.py",
    "engine/releases/bundle_files.py check_names": "tests/unit/test_hostile_bundles.py",
    "engine/releases/bundle_files.py check_total": "tests/unit/test_hostile_bundles.py",
    "engine/releases/bundles.py _check_file_sizes": "tests/unit/test_hostile_bundles.py",
    "engine/releases/bundles.py _check_names": "tests/unit/test_hostile_bundles.py",
    "engine/releases/onnx_guard.py _check_message": "tests/unit/test_hostile_bundles.py",
    "engine/releases/onnx_guard.py _refuse_external": "tests/unit/test_hostile_bundles.py",
    "engine/releases/onnx_guard.py _refuse_operator": "tests/unit/test_hostile_bundles.py",
    "engine/releases/onnx_guard.py check": "tests/unit/test_hostile_bundles.py",
    "engine/releases/registry.py Registry.refuse_unfit": "tests/unit/test_hostile_bundles.py",
    "engine/releases/signing.py _library": "tests/unit/test_hostile_bundles.py",
    "engine/releases/signing.py _manifest": "tests/unit/test_hostile_bundles.py",
    "engine/releases/signing.py _private_key": "tests/unit/test_hostile_bundles.py",
    "engine/releases/signing.py _signatures": "tests/unit/test_hostile_bundles.py",
    "engine/releases/signing.py check": "tests/unit/test_hostile_bundles.py",
    "engine/releases/signing.py generate": "tests/unit/test_hostile_bundles.py",
    "engine/releases/registrar.py Registrar._write": "tests/integration/test_rollback.py",
    "engine/releases/probe.py _raise_refusal": "tests/unit/test_release_loader.py",
    "engine/releases/probe.py _wait": "tests/unit/test_release_loader.py",
    "engine/view/impressions.py ImpressionRules.applied": "tests/integration/test_impressions.py",
    "engine/view/impressions.py _check_items": "tests/integration/test_impressions.py",
    "engine/view/item_queries.py ItemQueries._row": "tests/integration/test_serve.py",
    "engine/worker/batch.py Processor._deliver": "tests/integration/test_put_aside.py",
    "engine/worker/tracing.py from_settings": "tests/integration/test_tracing.py",
    "engine/worker/changelog_guard.py ChangelogGuard.before": "tests/integration/test_waiting.py",
    "engine/releases/remote.py _download": "tests/unit/test_publish.py",
    "engine/releases/remote.py fetch": "tests/unit/test_publish.py",
    "engine/releases/release_loader.py ReleaseLoader._fetch": "tests/unit/test_release_loader.py",
}
"""Errors that need a broker, an archive, a child process, a worker in trouble, or a large file, as these tests have."""


ON_A_BROKER = {
    "engine/eventlog/kafka/failures.py translated",
    "engine/eventlog/kafka/log.py KafkaLog._all_partitions",
    "engine/eventlog/kafka/log.py KafkaLog.identity",
    "engine/eventlog/kafka/topic_admin.py create_missing",
    "engine/eventlog/kafka/topic_admin.py partition_counts",
    "engine/eventlog/kafka/output.py Output._raise_refusal",
    "engine/eventlog/kafka/output.py Output.send",
    "engine/eventlog/kafka/session.py KafkaSession.commit",
}
"""Errors that the rows of a real broker end at."""


@dataclass(frozen=True)
class Site:
    """A `raise` in the source."""

    path: Path
    function: str
    lines: range

    @property
    def name(self) -> str:
        """File and function."""
        return f"{self.path.relative_to(ROOT)} {self.function}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.mistake)
def test_a_message_has_its_four_parts(row: Row, tmp_path: Path) -> None:
    if row.needs:
        pytest.importorskip(row.needs)
    check(row, raised_by(lambda: row.act(tmp_path)))


@pytest.mark.kafka
@pytest.mark.parametrize("row", streams.ON_KAFKA, ids=lambda row: row.mistake)
def test_a_message_about_a_broker_has_its_four_parts(row: Row, kafka_log: KafkaLog, topic_names: Names) -> None:
    error = raised_by(lambda: row.act(kafka_log, topic_names))
    check(row, error)
    path, line = place_of(error)
    assert {site.name for site in sites() if str(site.path) == path and line in site.lines} <= ON_A_BROKER


def raised_by(act: Callable[[], object]) -> HeadraceError:
    """The error that the act leads to."""
    with pytest.raises(HeadraceError) as caught:
        act()
    return caught.value


def check(row: Row, error: HeadraceError) -> None:
    """Find every part of the row in the message."""
    message = str(error)
    assert type(error) is row.error, message
    missing = [part for part in row.parts if not re.search(part, message)]
    assert not missing, f"{message!r} lacks {missing}"


def test_every_error_of_the_engine_has_a_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    for row in ROWS:
        if row.needs:
            pytest.importorskip(row.needs)
    reached = {place_of(raised_by(functools.partial(row.act, tmp_path_factory.mktemp("row")))) for row in ROWS}
    without = {site.name for site in sites() if not any((str(site.path), line) in reached for line in site.lines)}
    assert sorted(without - ON_A_BROKER - ELSEWHERE.keys()) == []
    assert ELSEWHERE.keys() <= without


def place_of(error: HeadraceError) -> tuple[str, int]:
    """File and line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return frame.filename, frame.lineno or 0


def test_what_is_said_to_be_tested_elsewhere_is() -> None:
    assert {*ELSEWHERE, *ON_A_BROKER} <= {site.name for site in sites()}
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())


def test_every_kind_of_error_is_raised_and_drawn() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    drawn = re.findall(r"^ {4}(.*?)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert [name for _, name in drawn] == [kind.__name__ for kind in kinds]
    depths = [len(kind.__mro__) - len(HeadraceError.__mro__) for kind in kinds]
    assert [len(lines) // len("├── ") for lines, _ in drawn] == depths
    raised = {row.error for row in (*ROWS, *streams.ON_KAFKA)}
    with_other_tests = {errors.UnsupportedClientError}
    of_a_secure_broker = {errors.LoginRefusedError, errors.RightMissingError}  # tests/integration/test_waiting.py
    assert set(kinds) - raised == {HeadraceError, *with_other_tests, *of_a_secure_broker}


def sites() -> Iterator[Site]:
    """Every `raise` of a HeadraceError in the engine, with the function that it is in.

    Those of the Python door are compared word for word in `tests/unit/test_open_release.py`.
    """
    for path in sorted(set((ROOT / "engine").rglob("*.py")) - set((ROOT / "engine" / "headrace").rglob("*.py"))):
        yield from _sites(path, ast.parse(path.read_text()), "")


def _sites(path: Path, node: ast.AST, function: str) -> Iterator[Site]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef):
            yield from _sites(path, inner, f"{function}.{inner.name}".lstrip("."))
            continue
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call):
            kind = getattr(errors, ast.unparse(inner.exc.func), None)
            if kind is not None:
                yield Site(path, function, range(inner.lineno, (inner.end_lineno or 0) + 1))
        yield from _sites(path, inner, function)
