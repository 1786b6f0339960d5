"""A row of the table of error messages: a mistake, and the parts of the message that it leads to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import HeadraceError

Act = Callable[[Path], object]
"""Makes a mistake; the argument is an empty folder."""
Names = Callable[[str], str]
"""Makes names of topics and groups unique to a test."""


@dataclass(frozen=True)
class Row:
    """A mistake and its message."""

    mistake: str
    act: Callable[..., object]
    """An `Act`, or, where only a real broker shows the mistake, a function of its log and of `Names`."""
    error: type[HeadraceError]
    says: str
    """Regular expressions of what the message names, what was found, what was expected and the way out, with ` | `
    between them; `-` for a part that another one implies: what does not exist should exist."""
    needs: str = ""
    """A module that this row needs and that an installation may lack."""

    @property
    def parts(self) -> list[str]:
        """The regular expressions of the parts that are said."""
        name, found, expected, way_out = self.says.split(" | ")
        return [part for part in (name, found, expected, way_out) if part != "-"]
