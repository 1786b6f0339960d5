"""The settings files that ship are ones that work."""

from pathlib import Path

from engine import settings
from models.train_command import training_settings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_shipped_settings_load() -> None:
    loaded = settings.load(DEPLOY / "headrace.toml", {})
    assert loaded.clicks.fields == settings.ClickFields()
    assert loaded.releases.model == settings.ReleaseSettings().model


def test_shipped_training_settings_are_to_be_had() -> None:
    chosen = training_settings(settings.Settings(), {}, DEPLOY / "movielens-1m.toml")
    assert (chosen.encoder.window_length, chosen.encoder.dimensions, chosen.epochs) == (200, 64, 10)
