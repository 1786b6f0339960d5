"""The command's completion scripts and exit codes, as docs/commands.md says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
MAIN = "import sys; sys.argv[0] = 'headrace'; from engine.cli.main import main; main()"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *arguments]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.mark.parametrize(
    ("shell", "registration"),
    [("bash", "complete -o nosort -F"), ("zsh", "compdef"), ("fish", "complete --no-files --command headrace")],
)
def test_the_script_of_each_shell_is_printed(shell: str, registration: str) -> None:
    assert f"_HEADRACE_COMPLETE={shell}_source headrace" in PAGE
    result = run(_HEADRACE_COMPLETE=f"{shell}_source")
    assert result.returncode == 0, result.stderr
    assert registration in result.stdout
    assert f"_HEADRACE_COMPLETE={shell}_complete" in result.stdout


def test_commands_and_their_options_are_completed() -> None:
    words = run(_HEADRACE_COMPLETE="bash_complete", COMP_WORDS="headrace serve", COMP_CWORD="1").stdout.split()
    assert words == ["plain,serve", "plain,serve-key"]
    words = run(_HEADRACE_COMPLETE="bash_complete", COMP_WORDS="headrace serve-key --sc", COMP_CWORD="2").stdout.split()
    assert words == ["plain,--scope"]
    scopes = {"_HEADRACE_COMPLETE": "bash_complete", "COMP_WORDS": "headrace serve-key --scope r", "COMP_CWORD": "3"}
    assert run(**scopes).stdout.split() == ["plain,read", "plain,report"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--version"], 0, ""),
        (["settings", "--config", "none.toml"], 2, "none.toml"),
        (["nothing"], 2, "No such command"),
        (["settings", "--nothing"], 2, "No such option"),
    ],
)
def test_exit_codes_are_those_of_the_page(arguments: list[str], code: int, says: str) -> None:
    result = run(*arguments)
    assert result.returncode == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert f"\n| {code} |" in PAGE
