"""Pages of documentation as tests read them: fenced blocks, commands, links and names between backticks."""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file() and path.suffix != ".pyc")
"""Settings and scripts, which give commands in comments or run them."""
PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE: Final = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_VARIABLE: Final = re.compile(r'^(\w+)="(.*)"$', re.MULTILINE)
_PROGRAM: Final = "$(command -v headrace)"
"""What torchrun needs for a program on the path."""


@dataclass(frozen=True)
class Command:
    """A call of `headrace` on a page."""

    page: str
    arguments: tuple[str, ...]
    environ: tuple[tuple[str, str], ...]
    """Variables that are set on the same line, before the program."""

    def __str__(self) -> str:
        return f"{self.page}: headrace {shlex.join(self.arguments)}"


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks whose first line is ```` ```kind ````, word for word."""
    return [text for name, text in _FENCE.findall(page.read_text()) if name == kind]


def kinds(page: Path) -> set[str]:
    """What stands after ```` ``` ```` on the page."""
    return {name for name, _ in _FENCE.findall(page.read_text())}


def quoted(page: Path) -> list[str]:
    """What stands between backticks, outside of blocks; a line break in it is a space."""
    prose = _FENCE.sub("", page.read_text())
    return [re.sub(r"\s+", " ", text) for text in re.findall(r"`([^`]+)`", prose)]


def commands(page: Path) -> Iterator[Command]:
    """Every call of `headrace` in a shell block or between backticks."""
    yield from _calls(page, [*(line for block in blocks(page, "sh") for line in _lines(block)), *quoted(page)])


def deploy_commands(file: Path) -> Iterator[Command]:
    """Every line of a file below `deploy/` that is a call of `headrace`, in a comment or not."""
    yield from _calls(file, re.findall(r"^(?:#   )?((?:[A-Z_]+=\S+ )?headrace .*)$", file.read_text(), re.MULTILINE))


def _calls(page: Path, lines: Iterable[str]) -> Iterator[Command]:
    for line in lines:
        words = shlex.split(line.replace(_PROGRAM, "headrace"), comments=True)
        for start, word in enumerate(words):
            if word == "headrace" and words[:1] != ["pip"]:
                end = words.index("&&", start) if "&&" in words[start:] else len(words)
                assigned = [re.fullmatch(r"([A-Z_]+)=(.*)", before) for before in words[:start]]
                environ = [(match[1], match[2]) for match in assigned if match]
                yield Command(page.name, tuple(words[start + 1 : end]), tuple(environ))


def _lines(block: str) -> list[str]:
    """The lines of a shell block, continued ones joined, with the values of variables that the block sets."""
    for name, value in _VARIABLE.findall(block):
        block = block.replace(f"${name} ", f"{value} ")
    return block.replace("\\\n", "").splitlines()
