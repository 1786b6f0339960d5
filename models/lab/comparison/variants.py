"""Variants of the two-hop training in a TOML file, the rows of an ablation table.

    [one-interest]
    interests = 1

    [wide]
    dimensions = 128
    dropout = 0.3

    [content]
    content = true

Keys are the settings of the training and of the encoder, as `headrace train` takes them, and `content`: true trains on
the items file too, which no other system does. The settings that the comparison decides (seed, minutes, holdout) are
refused.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from engine.errors import SettingsError
from models.settings import EncoderSettings, TrainSettings, refusal

_SET_BY_COMPARE: Final = {"seed": "--seeds", "minutes": "--minutes", "holdout": "--split", "clicks": "--config"}
_PRIVATE: Final = {"private_epsilon", "private_delta", "private_clip"}
"""A private training ends after its steps, not at the time limit that all systems have."""
_TRAINING_KEYS: Final = TrainSettings.model_fields.keys() - {"encoder", "holdout_items", *_SET_BY_COMPARE, *_PRIVATE}


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Settings of each variant in the file, by name; `settings` checks them.

    Raises:
        SettingsError: the file cannot be read, or has a key outside of a table.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}; expected TOML with one table a variant") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {name} is outside of any variant; move it below a line [name-of-variant]")
    return tables


def split_content(name: str, values: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """The value of `content` in the settings of variant `name`, and its other settings.

    Raises:
        SettingsError: `content` is neither true nor false.
    """
    others = dict(values)
    content = others.pop("content", False)
    if not isinstance(content, bool):
        raise SettingsError(f"variant {name}: content: found {content!r}, expected true or false")
    return content, others


def settings(name: str, values: Mapping[str, Any], **set_by_compare: Any) -> TrainSettings:
    """The training settings of variant `name`: its `values`, and those that the comparison decides.

    Raises:
        SettingsError: a setting is unknown, out of range, or decided by the comparison.
    """
    for key, option in _SET_BY_COMPARE.items():
        if key in values:
            raise SettingsError(f"variant {name}: {key} is the same for all systems, set it with {option}")
    encoder = {key: value for key, value in values.items() if key in EncoderSettings.model_fields}
    training = {key: value for key, value in values.items() if key not in encoder}
    unknown = training.keys() - _TRAINING_KEYS
    if unknown:
        known = sorted({"content", *EncoderSettings.model_fields, *_TRAINING_KEYS})
        raise SettingsError(f"variant {name}: unknown {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    try:
        return TrainSettings.model_validate({"encoder": encoder, **training, **set_by_compare})
    except ValidationError as error:
        raise SettingsError(f"variant {name}: {refusal(error)}") from error
