"""Headrace from Python: lists of a release for any history, lists from the topic, the event log, settings, errors.

    import headrace

    recommendation = headrace.open_release("releases/two-hop-1").recommend(["x-9", "x-12"])

The names in `__all__` are the interface to other programs; every other module is private. Each is imported at its first
use: decoding a list from the topic brings in neither numpy nor onnxruntime, hnswlib, pydantic or the Kafka client.
"""

from importlib.metadata import version
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Final

from ._command import explain_hidden

if TYPE_CHECKING:
    from engine.errors import (
        BrokerUnavailableError,
        ChangelogError,
        DamagedReleaseError,
        DataError,
        DeliveryError,
        EventLogError,
        HeadraceError,
        LoginRefusedError,
        MessageError,
        MissingExtraError,
        NewerWindowError,
        RecordRefusedError,
        ReleaseError,
        RequestError,
        RightMissingError,
        RunFolderError,
        SettingsError,
        UnfitReleaseError,
        UnsupportedClientError,
    )
    from engine.eventlog.base import (
        EventLog,
        Outgoing,
        Partition,
        Producer,
        Reader,
        Rebalance,
        Records,
        Session,
        TopicSpec,
    )
    from engine.eventlog.kafka import KafkaLog
    from engine.eventlog.memory.log import MemoryLog
    from engine.messages.recommendation import ListedItem, Reason, Recommendation, decode_recommendation
    from engine.settings.loader import load as load_settings
    from engine.settings.sections import Settings

    from ._release import Release, open_release

    __version__: str

__all__ = [
    "BrokerUnavailableError",
    "ChangelogError",
    "DamagedReleaseError",
    "DataError",
    "DeliveryError",
    "EventLog",
    "EventLogError",
    "HeadraceError",
    "KafkaLog",
    "ListedItem",
    "LoginRefusedError",
    "MemoryLog",
    "MessageError",
    "MissingExtraError",
    "NewerWindowError",
    "Outgoing",
    "Partition",
    "Producer",
    "Reader",
    "Reason",
    "Rebalance",
    "Recommendation",
    "RecordRefusedError",
    "Records",
    "Release",
    "ReleaseError",
    "RequestError",
    "RightMissingError",
    "RunFolderError",
    "Session",
    "Settings",
    "SettingsError",
    "TopicSpec",
    "UnfitReleaseError",
    "UnsupportedClientError",
    "decode_recommendation",
    "load_settings",
    "open_release",
]

_HOMES: Final = {
    **{name: f"engine.errors:{name}" for name in __all__ if name.endswith("Error")},
    **{name: f"engine.messages.recommendation:{name}" for name in ("Reason", "ListedItem", "Recommendation")},
    "decode_recommendation": "engine.messages.recommendation:decode_recommendation",
    **{name: f"engine.eventlog.base:{name}" for name in ("EventLog", "Outgoing", "Partition", "Producer", "Reader")},
    **{name: f"engine.eventlog.base:{name}" for name in ("Rebalance", "Records", "Session", "TopicSpec")},
    "KafkaLog": "engine.eventlog.kafka:KafkaLog",
    "MemoryLog": "engine.eventlog.memory.log:MemoryLog",
    "Release": "headrace._release:Release",
    "Settings": "engine.settings.sections:Settings",
    "load_settings": "engine.settings.loader:load",
    "open_release": "headrace._release:open_release",
}
"""Module and name of each export, as `pkgutil.resolve_name` takes it."""


if not TYPE_CHECKING:  # seen by a type checker, `__getattr__` would make every misspelt name a name of this module

    def __getattr__(name: str) -> Any:
        """Import an export (PEP 562)."""
        if name == "__version__":
            return version("headrace")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if reason := explain_hidden(_HOMES[name].partition(":")[0]):
            raise ImportError(reason)
        globals()[name] = resolve_name(_HOMES[name])
        return globals()[name]

    def __dir__() -> list[str]:
        """All exports, imported or not."""
        return [*__all__, "__version__"]
