r"""Paths of fields in the user's own messages and files, as settings write them.

A path is a row of steps with dots between them. A step is the key of an object, or, in digits, an index of an array:
`items.0.id` is the id of the first item. A backslash makes a dot a part of a key (`user\.id`), and digits a key (`\0`).
"""

import re
from typing import Final, TypeAlias

from engine.errors import SettingsError

Step: TypeAlias = str | int
Steps: TypeAlias = tuple[Step, ...]

_MAX_INDEX: Final = 99
_DIGITS: Final = re.compile(r"\\?[0-9]+")
_DOT: Final = re.compile(r"(?<!\\)\.")


def parse_path(path: str, setting: str = "clicks.fields") -> Steps:
    """The steps of a path.

    Raises:
        SettingsError: naming `setting`: a step is empty or has a character that it cannot have.
    """
    return tuple(_parse_step(step, path, setting) for step in _DOT.split(path))


def _parse_step(step: str, path: str, setting: str) -> Step:
    if step.isascii() and step.isdigit():
        if int(step) > _MAX_INDEX:
            raise SettingsError(
                f"setting '{setting}': found index {step} in {path!r}, expected {_MAX_INDEX} at most; map another field"
            )
        return int(step)
    key = step[1:] if _DIGITS.fullmatch(step) else step.replace("\\.", ".")
    if not key:
        raise SettingsError(
            f"setting '{setting}': found {path!r}, which has an empty step, expected keys joined by dots; take the dot"
            " out, or write \\. for a dot in a key"
        )
    if {'"', "\\"} & set(key) or not key.isprintable():
        raise SettingsError(
            f"setting '{setting}': found {path!r}, which has a character that keys cannot have, expected printable ones"
            ' without " and with \\ only before a dot or a key of digits; map a field with another name'
        )
    return key
