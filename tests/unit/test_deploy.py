"""The settings file that ships is one that works."""

from pathlib import Path

from engine import settings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_shipped_settings_load() -> None:
    loaded = settings.load(DEPLOY / "headrace.toml", {})
    assert loaded.clicks.fields == settings.ClickFields()
    assert loaded.releases.model == settings.ReleaseSettings().model
