"""Training settings in TOML: one value each for `headrace train --settings`, or domains that `headrace tune` searches.

    learning_rate = { low = 3e-4, high = 1e-2, log = true }     searched
    dimensions = { choices = [32, 64] }                         searched
    window_length = 50                                          fixed

Names, types and bounds are those of `models.settings`: a new field there can be set here without further work, and is
searched by default when it has a line in `DEFAULTS`.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Self, get_args

from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, StrictFloat, StrictInt, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from engine.errors import SettingsError
from models.settings import EncoderSettings, InterestChoice, Scoring, TrainSettings

_SET_ELSEWHERE: Final = {
    "encoder": "write its fields next to the others, without a table of their own",
    "clicks": "the weights of the actions are in the file given with --config",
    "holdout": "give --holdout",
    "holdout_items": "give --holdout-items",
    "minutes": "give --minutes, and for a tuning --trial-minutes",
    "seed": "give --seed",
    "device": "give --device",
    "private_epsilon": "give --private-epsilon to `headrace train`; a tuning is not private",
    "private_delta": "give --private-delta to `headrace train`",
    "private_clip": "give --private-clip to `headrace train`",
    "checkpoint_s": "give --checkpoint-s to `headrace train`; a tuning writes no checkpoints",
}
"""Settings that a file cannot hold, and the way to set them."""
_NOT_SEARCHABLE: Final = "validation_users"
"""Part of how trials are measured: a file can set it, but a tuning cannot search it."""


class Range(BaseModel):
    """Numbers from `low` to `high`, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: StrictInt | StrictFloat
    high: StrictInt | StrictFloat
    log: bool = False
    """Sample the logarithm uniformly."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be less than high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}, but a range on a log scale must begin above 0")
        return self

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{' on a log scale' if self.log else ''}"


class Categories(BaseModel):
    """A list of values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: Annotated[tuple[Any, ...], MinLen(1)]

    def __contains__(self, value: Any) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.choices))}"


Domain = Range | Categories

DEFAULTS: Final[Mapping[str, Domain]] = {
    "learning_rate": Range(low=3e-4, high=1e-2, log=True),
    "dimensions": Categories(choices=(32, 64, 96, 128)),
    "heads": Categories(choices=(1, 2, 4, 8)),
    "interests": Range(low=1, high=8),
    "hidden": Range(low=64, high=512, log=True),
    "dropout": Range(low=0.0, high=0.6),
    "batch_sequences": Categories(choices=(32, 64, 128, 256)),
    "weight_averaging": Categories(choices=(0.0, 0.99, 0.999)),
    "scoring": Categories(choices=get_args(Scoring)),
    "interest_choice": Categories(choices=get_args(InterestChoice)),
    "id_dropout": Range(low=0.0, high=0.6),
}
"""Domain of each setting that is searched unless a file says otherwise."""
_CONTENT_ONLY: Final = "id_dropout"
"""Has no effect where items have no content."""


@dataclass(frozen=True, slots=True)
class Space:
    """A search space over training settings."""

    searched: Mapping[str, Domain]
    """Domain of each searched setting."""
    fixed: Mapping[str, Any]
    """Value of each setting that a file fixes."""

    def settings(self, base: TrainSettings, sampled: Mapping[str, Any]) -> TrainSettings:
        """`base` with the fixed settings, and values of the searched ones.

        Raises:
            ValidationError: the combination of values is invalid.
        """
        encoder = dict(base.encoder)
        return TrainSettings.model_validate(dict(base) | nested({**encoder, **self.fixed, **sampled}))

    def start(self, base: TrainSettings) -> dict[str, Any]:
        """The searched settings whose value in `base` is in their domain, with that value."""
        values = flat(base)
        return {name: values[name] for name, domain in self.searched.items() if values[name] in domain}

    def described(self, base: TrainSettings) -> dict[str, str]:
        """Domain or value of every setting as text, by name."""
        values = {**flat(base), **self.fixed, **self.searched}
        return {name: str(value) for name, value in values.items()}


def read(path: Path | None, *, with_content: bool) -> Space:
    """The default search space, changed by the file at `path`.

    Args:
        path: TOML file; None changes nothing.
        with_content: true where items have content.

    Raises:
        SettingsError: the file cannot be read, a name is unknown (the nearest known one is named) or a value is wrong.
    """
    defaults = {name: domain for name, domain in DEFAULTS.items() if with_content or name != _CONTENT_ONLY}
    values = {**defaults, **(_read_file(path) if path else {})}
    space = Space(
        searched={name: value for name, value in values.items() if isinstance(value, Domain)},
        fixed={name: value for name, value in values.items() if not isinstance(value, Domain)},
    )
    if not space.searched:
        raise SettingsError(f"{path} fixes every setting, nothing is left to tune; give one of them a range or choices")
    return space


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in the file at `path`, which must have one value each.

    Raises:
        SettingsError: as for `read`, or a setting has a range or choices.
    """
    values = _read_file(path)
    for name, value in values.items():
        if isinstance(value, Domain):
            raise SettingsError(f"{path}: {name} is {value}, expected one value; `headrace tune --space` searches")
    return values


def flat(settings: TrainSettings) -> dict[str, Any]:
    """Value of every setting that a file may hold, by name."""
    values = {**dict(settings.encoder), **dict(settings)}
    return {name: values[name] for name in _fields()}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as `TrainSettings` has them: those of the encoder in a section of their own."""
    encoder = {name: value for name, value in values.items() if name in EncoderSettings.model_fields}
    return {"encoder": encoder} | {name: value for name, value in values.items() if name not in encoder}


def _fields() -> dict[str, FieldInfo]:
    every = chain(EncoderSettings.model_fields.items(), TrainSettings.model_fields.items())
    return {name: field for name, field in every if name not in _SET_ELSEWHERE}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    fields = _fields()
    for name in values:
        if name not in fields:
            raise SettingsError(f"{path}: {_unknown(name, fields)}")
    return {name: _read_value(name, value, fields[name], path) for name, value in values.items()}


def _read_value(name: str, value: Any, field: FieldInfo, path: Path) -> Any:
    """A range, choices or one value, each within the field's own bounds."""
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    try:
        if not isinstance(value, Mapping):
            return adapter.validate_python(value)
        if name == _NOT_SEARCHABLE:
            raise SettingsError(f"{path}: {name} decides how trials are measured and can't be searched; give one value")
        if "choices" in value:
            categories = Categories.model_validate(value)
            return Categories(choices=tuple(map(adapter.validate_python, categories.choices)))
        limits = Range.model_validate(value)
        ends = {end: adapter.validate_python(getattr(limits, end)) for end in ("low", "high")}
        return Range(**ends, log=limits.log)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, (name, *problem["loc"])))
        way_out = "" if not isinstance(value, Mapping) else "; a range has low, high and perhaps log, or give choices"
        raise SettingsError(f"{path}: {key}: found {problem['input']!r}, {problem['msg']}{way_out}") from error


def _unknown(name: str, known: Iterable[str]) -> str:
    if name in _SET_ELSEWHERE:
        return f"{name!r} cannot be set in this file: {_SET_ELSEWHERE[name]}"
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return f"unknown setting {name!r}; {hint}"
