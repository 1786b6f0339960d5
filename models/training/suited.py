"""Settings that the data decide where none are given, each with its reason."""

from dataclasses import dataclass
from typing import Final

from models.settings import TrainSettings
from models.training.training_data import TrainingData

SHORT_EVENTS: Final = 20.0
"""Mean events of a user below which histories are short: measured at 8 (`docs/log.md`)."""
SHORT_DROPOUT: Final = 0.3


@dataclass(frozen=True, slots=True)
class Choice:
    """The value of a setting, and the figure of the data that decided."""

    setting: str
    value: float
    reason: str

    def __str__(self) -> str:
        return f"{self.setting} {self.value:g}: {self.reason}"


def choose(settings: TrainSettings, data: TrainingData) -> tuple[TrainSettings, list[Choice]]:
    """The settings with those that suit the data where none were given, and what was chosen.

    A private training keeps its own: figures of the data are not private.
    """
    events = len(data.histories) / max(1, len(data.histories.starts) - 1)
    is_given = "dropout" in settings.encoder.model_fields_set
    if is_given or settings.private_epsilon or events >= SHORT_EVENTS:
        return settings, []
    reason = f"a user has {events:.1f} training events in the mean, fewer than {SHORT_EVENTS:g}"
    encoder = settings.encoder.model_copy(update={"dropout": SHORT_DROPOUT})
    return settings.model_copy(update={"encoder": encoder}), [Choice("dropout", SHORT_DROPOUT, reason)]
