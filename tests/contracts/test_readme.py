"""The README's settings and list are what the engine reads and writes; the architecture page names every module."""

import json
import tomllib
from pathlib import Path

from engine.messages.recommendation import decode_recommendation
from engine.settings import loader
from tests.contracts.documents import ROOT, blocks

README = ROOT / "README.md"


def test_settings_in_the_readme_load(tmp_path: Path) -> None:
    for block in blocks(README, "toml"):
        (tmp_path / "headrace.toml").write_text(block)
        loaded = loader.load(tmp_path / "headrace.toml", {})
        assert loader.read_file(tmp_path / "headrace.toml") == tomllib.loads(block)
        assert loaded.clicks.fields.user == "visitor.id"


def test_the_list_in_the_readme_is_one() -> None:
    (block,) = blocks(README, "json")
    ours = decode_recommendation(block.encode())
    plain = json.loads(block)
    assert plain.keys() == set(ours.__struct_fields__)
    assert all(place.interest < len(ours.interests) for place in ours.items)


def test_the_architecture_page_names_every_module_beside_its_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for top in ("engine", "producers", "models"):
        section = page[page.index(f"## `{top}/`") :].split("\n## ")[0]
        rows = {row.split("|")[1]: row for row in section.splitlines() if row.startswith("| `")}
        for path in (ROOT / top).rglob("*.py"):
            package, *inside = path.relative_to(ROOT / top).parts
            if path.name == "__init__.py":
                continue
            (row,) = (row for head, row in rows.items() if f"`{package}{'/' if inside else ''}`" in head)
            for name in (*(f"{folder}/" for folder in inside[:-1]), path.name):
                assert f"`{name}`" in row, f"docs/architecture.md does not name {path.relative_to(ROOT)}"


def test_ci_runs_the_readmes_test_command() -> None:
    assert "pip install -e '.[dev]' && pytest" in README.read_text()
    script = (ROOT / ".ci" / "run").read_text()
    assert "pip install --quiet -e '.[dev]' && pytest" in script
