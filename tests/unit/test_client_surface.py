"""A Kafka client without the members that the engine uses is refused when the log is opened, not in mid-rebalance."""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest
from kafka import KafkaConsumer  # noqa: TID251 - the client under test
from kafka.coordinator.consumer import ConsumerCoordinator  # noqa: TID251
from kafka.net.selector import NetworkSelector  # noqa: TID251

import engine.eventlog.kafka
from engine.errors import UnsupportedClientError
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.kafka.client_surface import MEMBERS, check_client
from engine.eventlog.kafka.client_version import SUPPORTED_VERSIONS
from engine.settings.sections import KafkaSettings

SOURCES = Path(engine.eventlog.kafka.__file__).parent
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_installed_client_is_supported() -> None:
    check_client()


def test_a_missing_method_is_named_with_the_supported_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = next(base for base in ConsumerCoordinator.__mro__ if "_send_group_coordinator_request" in vars(base))
    monkeypatch.delattr(owner, "_send_group_coordinator_request")
    monkeypatch.delattr(NetworkSelector, "call_later")
    with pytest.raises(UnsupportedClientError) as refused:
        KafkaLog(KafkaSettings())
    assert "it has no ConsumerCoordinator._send_group_coordinator_request, NetworkSelector.call_later" in str(
        refused.value
    )
    assert f"expected version {SUPPORTED_VERSIONS}: pip install 'kafka-python{SUPPORTED_VERSIONS}'" in str(
        refused.value
    )


def test_a_missing_attribute_of_instances_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(self: object) -> None:
        self._coordinator_of_group = self._coordinator  # type: ignore[attr-defined]

    for name, method in vars(KafkaConsumer).copy().items():
        if "_coordinator" in getattr(getattr(method, "__code__", None), "co_names", ()):
            monkeypatch.setattr(KafkaConsumer, name, other)  # reads the attribute, and sets others
    with pytest.raises(UnsupportedClientError, match=r"it has no .*KafkaConsumer\._coordinator, "):
        KafkaLog(KafkaSettings())


@pytest.mark.parametrize("module", ["kafka.net.compat", "kafka.coordinator.assignors.cooperative_sticky"])
def test_a_missing_module_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("engine.eventlog.kafka")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedClientError, match=module):
        importlib.import_module("engine.eventlog.kafka")


def test_every_private_member_in_use_is_checked() -> None:
    checked = {name for _, name in MEMBERS if name.startswith("_")}
    used = set()
    for path in SOURCES.glob("*.py"):
        for line in path.read_text().splitlines():
            if "noqa: SLF001" in line:
                used |= {name for name in checked if f".{name}" in line}
                assert any(f".{name}" in line for name in checked), f"{path.name}: {line.strip()}"
    of_subclasses = {"_pending_waiters", "_pending_waiters_lock", "_buffer", "_read_msg", "_unpack_records"}
    assert used | of_subclasses == checked


def test_the_requirement_allows_the_supported_versions() -> None:
    requirements = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert [text for text in requirements if text.startswith("kafka-python")] == [f"kafka-python{SUPPORTED_VERSIONS}"]
