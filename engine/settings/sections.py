"""The settings: a TOML file, replaced by the environment; unknown keys are refused, and all is read once.

    headrace run --config headrace.toml
    HEADRACE_KAFKA__BOOTSTRAP_SERVERS=broker:9092 headrace run      # section, two underscores, key

Names carry units (`_s` seconds, `_ms` milliseconds, `_bytes`). `headrace settings` prints every value in force, and
where it comes from.
"""

from typing import Final, Self

from pydantic import model_validator

from engine.settings.click_settings import (
    MAX_ACTION_BYTES,
    MAX_ACTION_WEIGHT,
    ClickFields,
    ClickSettings,
    ItemFields,
    ItemSettings,
    TimeUnit,
)
from engine.settings.kafka_settings import KafkaSettings, TopicSettings
from engine.settings.release_settings import (
    ArchiveSettings,
    CanarySettings,
    Exposure,
    ReleaseSettings,
    RetrainSettings,
)
from engine.settings.section import PositiveFloat, PositiveInt, Section
from engine.settings.serving_settings import (
    ImpressionSettings,
    IndexSettings,
    RecommendationSettings,
    ServeSettings,
    SnapshotSettings,
    TelemetrySettings,
    WindowSettings,
    WorkerSettings,
)

__all__ = [
    "MAX_ACTION_BYTES",
    "MAX_ACTION_WEIGHT",
    "PREFIXED",
    "ArchiveSettings",
    "CanarySettings",
    "ClickFields",
    "ClickSettings",
    "Exposure",
    "ImpressionSettings",
    "IndexSettings",
    "ItemFields",
    "ItemSettings",
    "KafkaSettings",
    "PositiveFloat",
    "PositiveInt",
    "RecommendationSettings",
    "ReleaseSettings",
    "RetrainSettings",
    "Section",
    "ServeSettings",
    "Settings",
    "SnapshotSettings",
    "TelemetrySettings",
    "TimeUnit",
    "TopicSettings",
    "WindowSettings",
    "WorkerSettings",
]

PREFIXED: Final = {
    "kafka": {"group", "client_id"},
    "clicks": {"topic", "by_user_topic", "dead_letter_topic"},
    "windows": {"topic"},
    "recommendations": {"topic"},
    "releases": {"topic"},
    "canary": {"topic"},
    "impressions": {"topic"},
}
"""By section, the names that `kafka.prefix` is put before."""


class Settings(Section):
    """All settings, by section."""

    kafka: KafkaSettings = KafkaSettings()
    clicks: ClickSettings = ClickSettings()
    topics: TopicSettings = TopicSettings()
    items: ItemSettings = ItemSettings()
    windows: WindowSettings = WindowSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    index: IndexSettings = IndexSettings()
    recommendations: RecommendationSettings = RecommendationSettings()
    impressions: ImpressionSettings = ImpressionSettings()
    releases: ReleaseSettings = ReleaseSettings()
    archive: ArchiveSettings = ArchiveSettings()
    retrain: RetrainSettings = RetrainSettings()
    canary: CanarySettings = CanarySettings()
    worker: WorkerSettings = WorkerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    serve: ServeSettings = ServeSettings()

    @property
    def deployment(self) -> str:
        """The name that this deployment's windows carry (`kafka.deployment`)."""
        kafka = self.kafka
        return kafka.deployment or f"{kafka.prefix or kafka.group}/{self.clicks.topic}"

    @model_validator(mode="after")
    def _shown_where_it_is_reported(self) -> Self:
        if self.canary.exposure == "impressions" and not self.impressions.accept:
            raise ValueError(
                "canary.exposure is 'impressions' while impressions.accept is false, expected reports of what users are"
                " shown; set impressions.accept = true, here and for `headrace serve`, or canary.exposure = 'lists'"
            )
        return self

    @model_validator(mode="after")
    def _with_prefix(self) -> Self:
        """Put `kafka.prefix` before the names that are at their defaults."""
        if self.kafka.prefix:
            for section, keys in PREFIXED.items():
                values: Section = getattr(self, section)
                names = {key: f"{self.kafka.prefix}.{getattr(values, key)}" for key in keys - values.model_fields_set}
                object.__setattr__(self, section, values.model_copy(update=names))
        return self
