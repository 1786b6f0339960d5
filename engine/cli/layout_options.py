"""Options of every verb that reads recorded interactions: the names of their columns, and how they are written."""

from collections.abc import Callable
from functools import wraps
from typing import Any, get_args

import click

from engine.interactions.layout import Layout
from engine.settings.sections import TimeUnit

_TAB = ("tab", "\\t")
_BY_SETTINGS = "Default: the one in the settings (clicks.fields), or else"


def _character(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    return "\t" if text in _TAB else text


_OPTIONS = (
    click.option("--user-column", "user", help=f"{_BY_SETTINGS} user, or MovieLens' userId."),
    click.option("--item-column", "item", help=f"{_BY_SETTINGS} item, or MovieLens' movieId."),
    click.option("--time-column", "time", help=f"{_BY_SETTINGS} ts, or MovieLens' timestamp."),
    click.option("--action-column", "action", help=f"{_BY_SETTINGS} event or action, where there is one."),
    click.option(
        "--search-column",
        "search",
        help=f"Words of searches, which have no item. {_BY_SETTINGS} query, where there is one.",
    ),
    click.option(
        "--time-unit",
        type=click.Choice(get_args(TimeUnit)),
        help="Default: clicks.time_unit, where the settings name the time column, or else s.",
    ),
    click.option(
        "--separator",
        callback=_character,
        metavar="CHARACTER",
        help="Between the columns of CSV; tab for a tab. Default: a comma, or the semicolon or tab of the header line.",
    ),
)


def layout_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb these options; it gets them as one `layout`."""

    @wraps(verb)
    def with_layout(**options: Any) -> None:
        verb(layout=Layout(**{name: options.pop(name) for name in Layout.__slots__}), **options)

    for option in reversed(_OPTIONS):
        with_layout = option(with_layout)
    return with_layout
