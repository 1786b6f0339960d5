"""Variants of the two-hop training, named in a TOML file: the rows of a table of ablations.

    [one-interest]
    interests = 1

    [wide]
    dimensions = 128
    dropout = 0.3

    [content]
    content = true

Keys are the training settings and the encoder's, as `headrace train` takes them, and whether the variant learns from
what an items file says, which no other system does. What the comparison itself decides (the seed, the minutes, what
is held out) is none of a variant's business.
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
"""A private training ends when its steps are done, not when the time is that all systems have."""
_OF_TRAINING: Final = TrainSettings.model_fields.keys() - {"encoder", "holdout_items", *_SET_BY_COMPARE, *_PRIVATE}


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Settings of each variant in the file, by name; whether they are known ones is found out by `settings`.

    Raises:
        SettingsError: the file cannot be read, or holds something that is not a named table.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}; expected TOML with one table a variant") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {name} stands outside of any variant; put it below a line [name-of-variant]")
    return tables


def with_content(name: str, chosen: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether the variant `name` that chose these learns from content, and its other choices.

    Raises:
        SettingsError: it says neither true nor false.
    """
    others = dict(chosen)
    told = others.pop("content", False)
    if not isinstance(told, bool):
        raise SettingsError(f"variant {name}: content: found {told!r}, expected true or false")
    return told, others


def settings(name: str, chosen: Mapping[str, Any], **given: Any) -> TrainSettings:
    """The training settings of the variant `name` that chose these; `given` is what the comparison decides.

    Raises:
        SettingsError: a setting is unknown, out of range, or decided by the comparison.
    """
    for key, option in _SET_BY_COMPARE.items():
        if key in chosen:
            raise SettingsError(f"variant {name}: {key} is the same for all systems, set it with {option}")
    encoder = {key: value for key, value in chosen.items() if key in EncoderSettings.model_fields}
    training = {key: value for key, value in chosen.items() if key not in encoder}
    unknown = training.keys() - _OF_TRAINING
    if unknown:
        known = sorted({"content", *EncoderSettings.model_fields, *_OF_TRAINING})
        raise SettingsError(f"variant {name}: unknown {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    try:
        return TrainSettings.model_validate({"encoder": encoder, **training, **given})
    except ValidationError as error:
        raise SettingsError(f"variant {name}: {refusal(error)}") from error
