"""Options and progress bars that several verbs share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """A progress bar with the completed share and the remaining time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


def evaluation_callback(progress: Progress) -> Callable[[str, int, int], None]:
    """A callback of evaluations: a bar for each kind of targets, at the number evaluated so far."""
    tasks: dict[str, Any] = {}

    def on_targets(kind: str, evaluated: int, targets: int) -> None:
        if kind not in tasks:
            tasks[kind] = progress.add_task(kind, total=targets)
        progress.update(tasks[kind], completed=evaluated)

    return on_targets
