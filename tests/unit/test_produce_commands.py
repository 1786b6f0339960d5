from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from engine.errors import DataError, HeadraceError, SettingsError
from producers.cli.demo import demo
from producers.cli.produce import produce
from producers.replay.recorded_events import read


def fail(*arguments: str) -> HeadraceError:
    """What a command line ends with; no broker is asked before the data are read."""
    error = CliRunner().invoke(produce, arguments).exception
    assert isinstance(error, HeadraceError)
    return error


def test_simulate_writes_a_folder_that_replay_can_read(tmp_path: Path) -> None:
    options = ["--events", "500", "--shoppers", "20", "--rate", "50", "--new-items", "0", "--seed", "7"]
    for folder in ("one", "two"):
        result = CliRunner().invoke(produce, ["simulate", "--out", str(tmp_path / folder), *options])
        assert result.exit_code == 0, result.output

    one = read(tmp_path / "one")
    assert len(one) == 500
    assert one.times_ms.tolist() == read(tmp_path / "two").times_ms.tolist()


@pytest.mark.parametrize(
    "options", [["--out", "x"], ["--events", "5"], ["--out", "x", "--events", "5", "--seconds", "1"]]
)
def test_writing_needs_a_folder_and_a_number(options: list[str]) -> None:
    assert "--out FOLDER and --events N" in str(fail("simulate", *options))


def test_replay_names_what_is_wrong_before_it_looks_for_a_broker(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("who,what,when\nu,i,1\n")

    assert isinstance(fail("replay", str(tmp_path / "nothing")), DataError)
    assert "found who, what, when" in str(fail("replay", str(path)))
    assert "no column how" in str(fail("replay", str(path), "--user-column", "who", "--item-column", "what",
                                       "--time-column", "when", "--action-column", "how"))  # fmt: skip
    assert isinstance(fail("replay", str(path), "--speed", "2", "--rate", "3"), SettingsError)


@pytest.mark.parametrize("arguments", [["replay", "--help"], ["simulate", "--help"]])
def test_every_option_has_a_word_of_help(arguments: list[str]) -> None:
    shown = CliRunner().invoke(produce, arguments)

    assert shown.exit_code == 0
    options = [option for option in produce.commands[arguments[0]].params if isinstance(option, click.Option)]
    assert all(option.help for option in options)


def test_the_demo_explains_itself() -> None:
    assert "without a broker" in CliRunner().invoke(demo, ["--help"]).output
