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
    help="Ask only for items with so many events to learn from, where most items have next to none.",
)


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """A progress bar with the share that is done and the time that remains."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


def watch_targets(progress: Progress) -> Callable[[str, int, int], None]:
    """Shows how many of the targets of each kind have been asked."""
    tasks: dict[str, Any] = {}

    def watch(kind: str, asked: int, targets: int) -> None:
        if kind not in tasks:
            tasks[kind] = progress.add_task(kind, total=targets)
        progress.update(tasks[kind], completed=asked)

    return watch
