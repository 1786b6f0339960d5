"""Loader of the settings, from a TOML file and the environment; unknown keys are refused by name."""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings import SettingsError as PydanticSettingsError

from engine.errors import SettingsError
from engine.settings.sections import PREFIXED, Section, Settings

ENV_PREFIX = "HEADRACE_"
ENV_SEPARATOR = "__"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
"""Names the settings file, for commands run without `--config`."""


class _FromEnvironment(Settings, BaseSettings):  # type: ignore[misc] # both only add to the same configuration
    """The fields to look for in the environment; never instantiated."""


def load(path: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings: the defaults, replaced by the file at `path`, replaced by the environment.

    Raises:
        SettingsError: the file cannot be read, a key is unknown (the nearest known one is named) or a value is wrong.
    """
    path = Path(path) if path else None
    merged = _merge(read_file(path) if path else {}, read_environment(environ))
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem, path) for problem in error.errors())) from error


def read_file(path: Path) -> dict[str, Any]:
    """The settings in the TOML file at `path`, checked for unknown keys only."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(
            f"settings file {path} cannot be read: {error.strerror}; name another with --config or {CONFIG_VARIABLE},"
            " or none: every setting has a default"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not valid TOML: {error}; correct it there") from error
    _refuse_unknown(values, Settings, (), str(path))
    return values


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings in `environ`, checked for unknown names only."""
    names = [name for name in environ if name.upper().startswith(ENV_PREFIX) and name != CONFIG_VARIABLE]
    for name in names:
        path = name[len(ENV_PREFIX) :].lower().split(ENV_SEPARATOR)
        nested: dict[str, Any] = {}
        for key in reversed(path):
            nested = {key: nested}
        _refuse_unknown(nested, Settings, (), f"environment variable {name}")
    source = EnvSettingsSource(
        _FromEnvironment, case_sensitive=False, env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_SEPARATOR
    )
    source.env_vars = {name.lower(): environ[name] for name in names}
    try:
        return source()
    except PydanticSettingsError as error:
        raise SettingsError(
            f"environment: {error}; expected a table written as JSON, or a variable for each of its settings,"
            f" {ENV_PREFIX}SECTION{ENV_SEPARATOR}KEY"
        ) from error


def origins(path: Path | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The source of each setting that is not at its default, by dotted name."""
    from_file = dict.fromkeys(_leaves(read_file(path)), str(path)) if path else {}
    written = from_file | dict.fromkeys(_leaves(read_environment(environ)), "environment")
    if "kafka.prefix" not in written:
        return written
    prefixed = [f"{section}.{key}" for section, keys in PREFIXED.items() for key in keys]
    return dict.fromkeys(prefixed, "kafka.prefix") | written


def flatten(settings: Settings) -> dict[str, Any]:
    """All settings by dotted name, secrets hidden."""
    values = dict(_leaves_of(settings, ()))
    return {name: "********" if _is_secret(name) and value else value for name, value in values.items()}


def _is_secret(name: str) -> bool:
    """True for a setting whose value is shown nowhere."""
    return name.endswith("_password")


def _refuse_unknown(values: Mapping[str, Any], section: type[BaseModel], path: tuple[str, ...], origin: str) -> None:
    known = section.model_fields
    for key, value in values.items():
        if key not in known:
            raise SettingsError(_unknown_key(key, section, path, origin))
        inner = known[key].annotation
        if isinstance(inner, type) and issubclass(inner, Section) and isinstance(value, Mapping):
            _refuse_unknown(value, inner, (*path, key), origin)


def _unknown_key(key: str, section: type[BaseModel], path: tuple[str, ...], origin: str) -> str:
    name = ".".join((*path, key))
    leaves = {full.rpartition(".")[2]: full for full in flatten(Settings())}
    if key in leaves:
        return f"{origin}: unknown setting '{name}'; did you mean '{leaves[key]}'?"
    near = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0.5)
    if near:
        return f"{origin}: unknown setting '{name}'; did you mean '{'.'.join((*path, near[0]))}'?"
    return f"{origin}: unknown setting '{name}'; known here: {', '.join(section.model_fields)}"


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in override.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted names of the values of nested tables."""
    for key, value in values.items():
        name = (*path, key)
        if isinstance(value, Mapping) and name != ("clicks", "actions"):
            yield from _leaves(value, name)
        else:
            yield ".".join(name)


def _leaves_of(section: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a section's settings."""
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from _leaves_of(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


def _explain(problem: Mapping[str, Any], path: Path | None) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    variable = f"{ENV_PREFIX}{name.upper().replace('.', ENV_SEPARATOR)}"
    origin = f"file {path}, or {variable}" if path else variable
    if not name:  # a sentence of ours about two sections, which names both
        return f"{problem['ctx']['error']}{f' (file {path})' if path else ''}"
    if problem["type"] == "value_error":  # a sentence of ours, from `engine.settings.sections`
        return f"setting '{name}': {problem['ctx']['error']} ({origin})"
    expected = problem["msg"].replace("Input should be", "expected").lower()
    value = "a hidden value" if _is_secret(name) else repr(problem.get("input"))
    return f"setting '{name}': found {value}, {expected} ({origin})"
