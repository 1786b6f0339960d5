"""Options of every verb that reads recorded interactions: where they lie, and how."""

from collections.abc import Callable
from functools import wraps
from typing import Any, get_args

import click

from models.data.archive import Layout, Source, TimeUnit

_LAYOUT = Layout()


def source_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb these options; it gets them as one `source`."""

    @click.option(
        "--data",
        required=True,
        help="A folder with interactions.csv.gz or Parquet files, one such file, or an address that fsspec knows.",
    )
    @click.option("--user-column", "user", default=_LAYOUT.user, show_default=True)
    @click.option("--item-column", "item", default=_LAYOUT.item, show_default=True)
    @click.option("--time-column", "time", default=_LAYOUT.time, show_default=True)
    @click.option("--action-column", "action", help="Default: event, where there is such a column.")
    @click.option(
        "--search-column", "search", help="Words of rows without an item. Default: query, where there is one."
    )
    @click.option("--time-unit", type=click.Choice(get_args(TimeUnit)), default=_LAYOUT.time_unit, show_default=True)
    @wraps(verb)
    def with_source(data: str, **chosen: Any) -> None:
        layout = Layout(
            **{field: chosen.pop(field) for field in ("user", "item", "time", "action", "search", "time_unit")}
        )
        verb(source=Source(data, layout), **chosen)

    return with_source
