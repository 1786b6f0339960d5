"""Progress of long commands where their output is no terminal."""

from io import StringIO

import pytest
from rich.console import Console

from models.cli.options import LogLines


@pytest.mark.parametrize(("is_terminal", "expected"), [(False, ["at 15", "at 30", "at 45"]), (True, [])])
def test_a_line_every_so_often_and_none_on_a_terminal(is_terminal: bool, expected: list[str]) -> None:
    now_s, output = [0.0], StringIO()
    lines = LogLines(Console(file=output, force_terminal=is_terminal), lambda: now_s[0])
    for second in range(50):
        now_s[0] = float(second)
        lines.report(f"at {second}")
    assert output.getvalue().split("\n")[:-1] == expected
