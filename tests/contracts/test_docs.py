"""Whatever a page tells people to type, set, open or follow exists and does what the page says."""

import itertools
import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.cli.main import headrace
from engine.eventlog.base import Partition, Records
from engine.ingest.decoder import ClickDecoder
from engine.settings import loader
from engine.settings.sections import ClickSettings, Section, Settings
from models.cli.train import training_settings
from models.lab.comparison import variants
from models.lab.tuning import search_space
from tests.contracts.documents import DEPLOY, PAGES, ROOT, Command, blocks, commands, deploy_commands, kinds, quoted

COMMANDS = sorted(
    {
        *(command for page in PAGES for command in commands(page)),
        *(command for file in DEPLOY for command in deploy_commands(file)),
    },
    key=str,
)
PLACEHOLDER = re.compile(r"[A-Z][A-Z-]*|.*(VERSION|LATER|RELEASE|\$).*")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def resolve(command: Command) -> tuple[click.Command, dict[str, Any]]:
    """The verb that is called, and the values of its options and arguments, as text; refuses unknown options."""
    verb: click.Command = headrace
    words = list(command.arguments)
    while isinstance(verb, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        inner = verb.get_command(click.Context(verb), name)
        assert inner is not None, f"{command}: there is no {name!r}"
        verb = inner
    takes_value = {option for each in verb.params if not getattr(each, "is_flag", True) for option in each.opts}
    if words and words[-1] in takes_value:  # an option named in passing, as in `headrace train --settings`
        words.append("VALUE")
    values, _, _ = verb.make_parser(click.Context(verb)).parse_args(args=words)
    return verb, values


def verbs(verb: click.Command = headrace) -> Iterator[click.Command]:
    """Every verb below a group, itself included."""
    yield verb
    if isinstance(verb, click.Group):
        for name in verb.list_commands(click.Context(verb)):
            inner = verb.get_command(click.Context(verb), name)
            assert inner is not None
            yield from verbs(inner)


def test_the_pages_have_commands() -> None:
    assert {command.page for command in COMMANDS} >= {"README.md", "CONTRIBUTING.md", "actions.md", "tuning.md"}
    assert {command.page for command in COMMANDS} >= {"ablations.toml", "train_demo_release"}
    assert len(COMMANDS) > 60
    assert Command("privacy.md", ("evaluate", "releases/two-hop-VERSION", "--data", "ml-100k"), ()) in COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_commands_exist_with_their_options_and_values(command: Command) -> None:
    verb, values = resolve(command)
    context = click.Context(verb)
    for parameter in verb.get_params(context):
        value = values.get(str(parameter.name))
        text = value[-1] if isinstance(value, list) and value else value
        if isinstance(text, str) and not PLACEHOLDER.fullmatch(text) and not isinstance(parameter.type, click.Path):
            parameter.type.convert(text, parameter, context)
    loader.load(None, dict(command.environ))


@each_page
def test_options_exist_that_the_page_names_by_themselves(page: Path) -> None:
    known = {
        option
        for verb in verbs()
        for parameter in verb.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    named = {text.split()[0] for text in quoted(page) if text.startswith("--")}
    assert named <= known


@each_page
def test_extras_exist_that_the_page_installs(page: Path) -> None:
    named = re.findall(r"pip install (?:-e )?'[^'\[]*\[(\w+)\]'", page.read_text())
    assert set(named) <= PROJECT["optional-dependencies"].keys()


def _is_settings(path: Path) -> None:
    assert loader.load(path, {}) != Settings()


def _is_training(path: Path) -> None:
    training_settings(Settings(), {}, path)


def _is_variants(path: Path) -> None:
    tables = variants.read(path)
    assert [variants.settings(name, table) for name, table in tables.items()]


def _is_space(path: Path) -> None:
    assert search_space.read(path, with_content=True).searched


TOML: dict[str, Callable[[Path], None]] = {
    "toml": _is_settings,
    "toml training": _is_training,
    "toml variants": _is_variants,
    "toml space": _is_space,
}
"""What a block of TOML is, by its first line: without another word, settings for `--config`."""


@each_page
def test_blocks_of_toml_load_as_what_they_are_said_to_be(page: Path, tmp_path: Path) -> None:
    assert {kind for kind in kinds(page) if kind.startswith("toml")} <= TOML.keys()
    for kind, check in TOML.items():
        for block in blocks(page, kind):
            (tmp_path / "block.toml").write_text(block)
            check(tmp_path / "block.toml")


@each_page
def test_files_of_variants_that_the_page_prints_are_some(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "sh"):
        for line, name in re.findall(r"^(printf .* > (\S+\.toml))$", block, re.MULTILINE):
            subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
            assert f"--variants {name}" in block
            _is_variants(tmp_path / name)


@each_page
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert not heading or heading in _anchors(target), f"{page.name}: {link} names no heading of {target.name}"


def _anchors(page: Path) -> set[str]:
    """The names that headings have as targets of links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_files_exist_that_the_page_names(page: Path) -> None:
    tops = {entry.name for entry in ROOT.iterdir()} - {"releases"}
    words = {word.split("::")[0] for text in quoted(page) for word in text.split()}
    paths = {word for word in words if "/" in word and word.split("/")[0] in tops}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    modules = {word for word in words if re.fullmatch(r"\w+\.py", word)}
    assert modules <= {
        path.name for top in ("deploy", "engine", "models", "producers", "tests") for path in (ROOT / top).rglob("*.py")
    }


TOPICS = {"clicks.dead", "clicks.by"}
"""Names with a dot that begin like a setting and are none."""


@each_page
def test_settings_exist_that_the_page_names(page: Path) -> None:
    sections = "|".join(Settings.model_fields)
    for text in quoted(page):
        name = re.match(rf"(?:{sections})(?:\.\w+)+", text)
        if name and name[0] not in TOPICS and not re.search(r"\.(py|csv|gz|parquet)$", name[0]):
            assert _is_setting(name[0]), f"{page.name}: there is no setting {name[0]!r}"


def _is_setting(name: str) -> bool:
    """Whether the dotted name is one of a setting, a section, or an action with a weight."""
    node: object = Settings()
    for key in name.split("."):
        if isinstance(node, dict):
            return True  # any action may have a weight
        if not isinstance(node, Section | Settings) or key not in type(node).model_fields:
            return False
        node = getattr(node, key)
    return True


def test_the_search_that_searches_md_shows_is_one() -> None:
    (line,) = re.findall(r"^    (\{.*\})$", (ROOT / "docs" / "searches.md").read_text(), re.MULTILINE)
    settings = ClickSettings()
    records = Records(Partition("clicks", 0), [0], [0], [None], [line.encode()], [()])
    clicks, dead = ClickDecoder(settings, Actions(settings)).decode([records], now_ms=1_800_000_000_000)
    assert dead == []
    assert clicks.items == [searches.id_of("red shoes")]
    assert clicks.times_ms.tolist() == [1_700_000_000_000]


QUICK = {("settings",), ("evaluate",), ("cold-start",), ("compress", "write")}
"""Verbs that need nothing but a release and recorded clicks, and are done with the tiny ones in a few seconds."""

RELEASE = re.compile(r"(releases/)?[a-z-]*VERSION|RELEASE")
SETS = {"FOLDER", "ml-100k", "ml-1m", "amazon-beauty", "online-retail", "yoochoose"}
OUTPUTS = {"--out", "--html"}


def quick_commands() -> list[Command]:
    """Those of the quick verbs that are complete: with a release and data where the verb wants them."""

    def complete(command: Command) -> bool:
        verb, values = resolve(command)
        return all(values.get(str(parameter.name)) for parameter in verb.params if parameter.required)

    quick = {
        (command.arguments, command.environ): command
        for command in COMMANDS
        if {command.arguments[:1], command.arguments[:2]} & QUICK and complete(command)
    }
    return [*quick.values()]


def test_quick_commands_are_on_several_pages() -> None:
    assert {command.page for command in quick_commands()} >= {"recorded-clicks.md", "evaluation.md", "privacy.md"}
    assert len(quick_commands()) >= 7


@pytest.mark.parametrize("command", quick_commands(), ids=str)
def test_quick_commands_run(
    command: Command, tiny_interactions: Path, tiny_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        str(tiny_interactions) if word in SETS else RELEASE.sub(str(tiny_release), word) for word in command.arguments
    ]
    result = CliRunner().invoke(headrace, words, env=dict(command.environ), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    if "--json" in words:
        assert json.loads(result.stdout)
    for option, value in itertools.pairwise(words):
        assert option not in OUTPUTS or Path(value).exists()
