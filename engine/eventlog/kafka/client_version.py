"""The versions of kafka-python that this package works with, and the error for others."""

from importlib.metadata import version
from typing import Final

from engine.errors import UnsupportedClientError

SUPPORTED_VERSIONS: Final = "~=3.0.12"
"""As `pyproject.toml` requires them: patch releases only, because private members are used (`client_surface`)."""


def unsupported(reason: str) -> UnsupportedClientError:
    """The error for a client that cannot be used."""
    return UnsupportedClientError(
        f"kafka-python {version('kafka-python')} cannot be used: {reason}; expected version {SUPPORTED_VERSIONS}:"
        f" pip install 'kafka-python{SUPPORTED_VERSIONS}'"
    )
