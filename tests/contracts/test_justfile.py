"""The justfile and CONTRIBUTING.md give the same commands, and git's hooks call recipes that exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JUSTFILE = (ROOT / "justfile").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()

KAFKA = "/path/to/kafka"
"""What CONTRIBUTING.md writes for the recipe's parameter HOME."""


def recipes() -> dict[str, str]:
    """The public recipes, each as the one line it runs."""
    pairs = re.findall(r"^# .*\n([a-z-]+)[A-Z ]*:\n    (.*)$", JUSTFILE, re.MULTILINE)
    return {name: line.replace("{{ HOME }}", KAFKA) for name, line in pairs}


def documented() -> dict[str, str]:
    """Arguments of `just`, and the command that CONTRIBUTING.md gives for them."""
    return dict(re.findall(r"^\|[^|]+\| `just ([^`]+)` \| `([^`]+)` \|$", CONTRIBUTING, re.MULTILINE))


def test_every_recipe_is_the_command_that_contributing_gives() -> None:
    assert recipes() == {arguments.split()[0]: command for arguments, command in documented().items()}
    assert recipes().keys() == {
        *("setup", "check", "test", "test-kafka", "bench", "demo", "generate", "audit", "structure")
    }


def test_hooks_are_local_and_call_recipes() -> None:
    assert re.findall(r"repo: (.*)", HOOKS) == ["local"]
    entries = re.findall(r"entry: just (.*)", HOOKS)
    assert entries == ["check", "test"]
    assert HOOKS.count("language: system") == HOOKS.count("entry:") == len(entries)


@pytest.mark.skipif(not shutil.which("just"), reason="needs just: pip install rust-just")
@pytest.mark.parametrize("arguments", documented())
def test_just_runs_what_is_documented(arguments: str) -> None:
    done = _run("just", "--dry-run", *arguments.split())
    assert done.stderr.splitlines() == [documented()[arguments]]


@pytest.mark.skipif(not shutil.which("just"), reason="needs just: pip install rust-just")
def test_just_lists_every_recipe() -> None:
    assert set(_run("just", "--summary").stdout.split()) == recipes().keys()
    assert all(f"    {name}" in _run("just").stdout for name in recipes())


@pytest.mark.skipif(not shutil.which("pre-commit"), reason="needs pre-commit: pip install pre-commit")
def test_pre_commit_reads_the_hooks() -> None:
    _run("pre-commit", "validate-config")


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
