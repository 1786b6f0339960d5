"""Imports that need an extra, with an error that says how to install it."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import MissingExtraError


@contextmanager
def required(extra: str) -> Iterator[None]:
    """A context for imports that need `extra`.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        command = f"pip install 'headrace[{extra}]'"
        if error.name == "rectools":  # pyproject.toml says why the extra lacks it there
            command += ", and before Python 3.13 then pip install --no-deps 'rectools>=0.19,<0.20'"
        raise MissingExtraError(f"needs {error.name}, which is not installed: {command}") from error
