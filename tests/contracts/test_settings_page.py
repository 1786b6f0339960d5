"""The page of settings is that of the code."""

from pathlib import Path

from engine.settings import loader, reference
from engine.settings.sections import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert reference.page() == PAGE, "python -m engine.settings.reference docs/settings.md"


def test_every_setting_has_a_row_in_the_table_of_its_section() -> None:
    tables = dict(section.split("]`\n", 1) for section in PAGE.split("\n## `[")[1:])
    for name in loader.flatten(Settings()):
        section, _, field = name.rpartition(".")
        assert f"| `{field}` | " in tables[section], name
