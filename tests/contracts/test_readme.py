"""What README.md and CONTRIBUTING.md tell people to type and expect is true."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from engine.cli.main import headrace
from engine.messages.recommendation import decode_recommendation
from engine.settings import loader

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = README + (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Every `headrace …` that stands in a shell block, in a table or between backticks."""
    lines = [line.split("  #")[0] for block in blocks("sh") for line in block.splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", DOCUMENTS, flags=re.DOTALL))
    found = [match[1].strip() for text in (*lines, *quoted) if (match := re.search(r"(?:^|&& )(headrace .*)$", text))]
    assert len(found) > 8
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_commands_exist_with_their_options(line: str) -> None:
    command: click.Command = headrace
    words = shlex.split(line)[1:]
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        inner = command.get_command(context, name)
        assert inner is not None, f"{line!r}: there is no {name!r}"
        command = inner
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known


def test_settings_in_the_readme_load(tmp_path: Path) -> None:
    for block in blocks("toml"):
        (tmp_path / "headrace.toml").write_text(block)
        loaded = loader.load(tmp_path / "headrace.toml", {})
        assert loader.read_file(tmp_path / "headrace.toml") == tomllib.loads(block)
        assert loaded.clicks.fields.user == "visitor.id"


def test_the_list_in_the_readme_is_one() -> None:
    (block,) = blocks("json")
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
    assert "pip install -e '.[dev]' && pytest" in README
    script = (ROOT / ".ci" / "run").read_text()
    assert "pip install --quiet -e '.[dev]' && pytest" in script
