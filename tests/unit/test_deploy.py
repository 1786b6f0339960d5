"""The settings files that ship are ones that work."""

from pathlib import Path

from engine.settings import loader, sections
from models.cli.train import training_settings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_shipped_settings_load() -> None:
    loaded = loader.load(DEPLOY / "headrace.toml", {})
    assert loaded.clicks.fields == sections.ClickFields()
    assert loaded.releases.model == sections.ReleaseSettings().model


def test_shipped_training_settings_are_to_be_had() -> None:
    chosen = training_settings(sections.Settings(), {}, DEPLOY / "movielens-1m.toml")
    assert (chosen.encoder.window_length, chosen.encoder.dimensions, chosen.epochs) == (200, 64, 10)
