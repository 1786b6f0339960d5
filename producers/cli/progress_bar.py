"""Progress bar of the producing commands, on standard error so that output can be piped."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _RateColumn(ProgressColumn):
    """Rate in events per second, over the last half minute."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:,.0f}/s", style="progress.data.speed")


@contextmanager
def bar(label: str, total: int | None) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of `total` events while the block runs; without a total, a count.

    Yields:
        A function to call after each batch, with its number of events and the event time of its last event in Unix
        milliseconds.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TextColumn("{task.fields[at]}", style="cyan"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, at="")
        yield lambda count, time_ms: progress.update(task, advance=count, at=spell_time(time_ms))


def spell_time(time_ms: int) -> str:
    """A time as text, in UTC: '2023-11-14 22:13:20'."""
    return f"{dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S}"
