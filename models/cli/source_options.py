"""Options of every verb of the learning side that reads recorded interactions."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from engine.cli.layout_options import layout_options
from engine.interactions.layout import Layout, Source


def source_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb these options; it gets them as one `source`."""

    @click.option(
        "--data",
        required=True,
        help="A folder with interactions.csv.gz, MovieLens' own files, Parquet files or one CSV file; one such file; or"
        " an address that fsspec knows.",
    )
    @layout_options
    @wraps(verb)
    def with_source(data: str, layout: Layout, **options: Any) -> None:
        verb(source=Source(data, layout), **options)

    return with_source
