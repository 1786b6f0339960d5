"""The shop that a server plays in the demo, where visitors of the live page may click."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class ClickSender(Protocol):
    """Puts clicks on the topic of clicks."""

    def __call__(self, user: str, item: str, time_ms: int) -> None:
        """Send one click on an item, with the default action."""
        ...


@dataclass(frozen=True, slots=True)
class Shop:
    """The shop that a server plays, where visitors of the live page may click."""

    send_click: ClickSender
    label: Callable[[str], str]
    """A word on an item, such as its category."""
