"""Secrets of the settings: a value, or a file that holds it."""

from pathlib import Path

from engine.errors import SettingsError
from engine.settings.sections import Section


def secret(section: Section, table: str, name: str) -> str | None:
    """A secret of a section, from the setting NAME or the file that NAME_file names; None without either.

    Args:
        section: the section.
        table: its name in the settings file.
        name: the setting's.

    Raises:
        SettingsError: both are set, or the file cannot be read or is empty.
    """
    value: str | None = getattr(section, name)
    path: Path | None = getattr(section, f"{name}_file")
    if path is None:
        return value
    if value is not None:
        raise SettingsError(
            f"settings '{table}.{name}' and '{table}.{name}_file': found both, expected one of them; take one out"
        )
    return secret_in(path, f"{table}.{name}_file")


def secret_in(path: Path, setting: str) -> str:
    """The secret in a file that a setting names.

    Raises:
        SettingsError: the file cannot be read, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(
            f"setting '{setting}': found {str(path)!r}, which cannot be read ({reason}), expected a file with the"
            " secret alone; name another, or let this user read it"
        ) from error
    if not text:
        raise SettingsError(
            f"setting '{setting}': found {str(path)!r}, which is empty, expected a file with the secret alone; write it"
            " there"
        )
    return text
