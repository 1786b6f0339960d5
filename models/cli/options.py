"""Options and progress bars that several verbs share."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

FOLDER = click.Path(path_type=Path, file_okay=False)
min_item_events_option = click.option(
    "--min-item-events",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Evaluate only targets whose item has at least this many training events.",
)


_LINE_EVERY_S: Final = 15.0


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """A progress bar with the completed share and the remaining time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


class LogLines:
    """A line of progress every so often, where there is no terminal to draw a bar on."""

    def __init__(self, console: Console, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock_s = console, clock_s
        self._due_s = clock_s() + _LINE_EVERY_S

    def report(self, text: str) -> None:
        """Print `text` if a line is due."""
        if not self._console.is_terminal and self._clock_s() >= self._due_s:
            self._due_s = self._clock_s() + _LINE_EVERY_S
            self._console.print(text, soft_wrap=True, highlight=False)


def evaluation_callback(progress: Progress) -> Callable[[str, int, int], None]:
    """A callback of evaluations: a bar for each kind of targets, at the number evaluated so far."""
    tasks: dict[str, Any] = {}
    lines = LogLines(progress.console)

    def on_targets(kind: str, evaluated: int, targets: int) -> None:
        if kind not in tasks:
            tasks[kind] = progress.add_task(kind, total=targets)
        progress.update(tasks[kind], completed=evaluated)
        lines.report(f"{kind}: {evaluated} of {targets} evaluated")

    return on_targets
