"""A second reading of messages that the strict decoder refuses: what may be absent from a click does not cost it.

The strict decoder is fast and refuses a message as a whole. Only then is the message parsed here into plain objects,
repaired where the fault is in nothing that a click needs, and converted to the same struct:

- an object or array that holds optional fields alone, and is null or of a wrong type, is as good as empty;
- a time may be spelled as databases and spreadsheets spell it;
- a byte order mark before the message and half a surrogate pair in a field that is not mapped are ignored.

What cannot be repaired gets a reason that names the field and what was found there.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import msgspec

from engine.ingest import times
from engine.ingest.dead_letters import DeadLetterReason
from engine.ingest.fields import ClickLayout
from engine.settings.field_paths import Step, Steps
from engine.settings.sections import TimeUnit

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a record is no click."""

    reason: DeadLetterReason
    detail: str
    withheld: bool = False
    """Its user gave no consent, or none can be read: the dead letter has no value."""
    refused_by: str | int | None = None
    """The user who said no in so many words; None where nobody did."""


class LenientDecoder:
    """Decodes messages that the strict decoder refused.

    Args:
        layout: the mapped fields.
        unit: of the time.
        require_consent: what cannot be known to have consent has none.
    """

    def __init__(self, layout: ClickLayout, unit: TimeUnit, require_consent: bool) -> None:
        self._layout = layout
        self._unit = unit
        self._require_consent = require_consent
        self._optional_parents = [*layout.optional_parents()]
        self._fields = layout.fields

    def decode(self, value: bytes, error: Exception) -> Any:
        """The message as the layout's struct, or a Refusal.

        Args:
            value: the message.
            error: what the strict decoder said of it.
        """
        try:
            message = json.loads(value.decode("utf-8-sig"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):  # not JSON, not UTF-8, nested too deeply, or a number of 5,000 digits
            return refusal(error, withheld=self._require_consent)
        self._repair_parents(message)
        event = self._converted(message, withheld=self._is_withheld(message))
        return replace(event, refused_by=self._refused_by(message)) if isinstance(event, Refusal) else event

    def _converted(self, message: Any, *, withheld: bool) -> Any:
        """The struct of a message in plain objects, or a Refusal."""
        wrong = self._repair_time(message) or self._wrong_id(message)
        if wrong:
            return Refusal(*wrong, withheld)
        self._repair_search(message)
        try:
            return msgspec.convert(message, self._layout.type)
        except msgspec.ValidationError as invalid:
            return refusal(invalid, withheld)
        except UnicodeEncodeError:
            return Refusal("unparsable", "the name of a field has half a surrogate pair, which is no text", withheld)

    def _refused_by(self, message: Any) -> str | int | None:
        """The user of a message that says no; None for other messages, and where no user can be read."""
        consent = self._fields.get("consent")
        if consent is None or _get(message, consent.steps) is not False:
            return None
        user = _get(message, self._fields["user"].steps)
        is_id = type(user) is int or (isinstance(user, str) and _is_encodable(user))
        return user if is_id else None

    def _repair_parents(self, message: Any) -> None:
        """Put an empty object or array in the place of what is none and need not be there."""
        consent = self._fields.get("consent")
        for steps, kind in self._optional_parents:
            value = _get(message, steps)
            if value is _MISSING or isinstance(value, kind):
                continue
            # A consent that cannot be read must not be taken for one that is absent.
            if consent is None or consent.steps[: len(steps)] != steps or is_absent(value):
                _container(message, steps)[steps[-1]] = kind()

    def _is_withheld(self, message: Any) -> bool:
        consent = self._fields.get("consent")
        if consent is None:
            return False
        value = _get(message, consent.steps)
        return value is False or (self._require_consent and value is not True)

    def _repair_time(self, message: Any) -> tuple[DeadLetterReason, str] | None:
        """Put a time in the place of its spelling; returns what is wrong with one that is none."""
        field = self._fields.get("time")
        value = _MISSING if field is None else _get(message, field.steps)
        if field is None or value is _MISSING:
            return None
        time = times.lenient(value, self._unit)
        if time is None:
            return "mistyped_field", times.mistyped(value, field.path, self._unit)
        if not times.in_range(time, self._unit):
            return "time_out_of_range", times.out_of_range(value, field.path, self._unit)
        _container(message, field.steps)[field.steps[-1]] = time
        return None

    def _repair_search(self, message: Any) -> None:
        """Leave half a surrogate pair, as of an emoji that was cut through, out of the words of a search."""
        field = self._fields.get("search")
        value = _MISSING if field is None else _get(message, field.steps)
        if field is not None and isinstance(value, str):
            _container(message, field.steps)[field.steps[-1]] = value.encode(errors="ignore").decode()

    def _wrong_id(self, message: Any) -> tuple[DeadLetterReason, str] | None:
        """What is wrong with an id that is no Unicode text, which no topic could take."""
        for name in ("user", "item"):
            field = self._fields[name]
            if not _is_encodable(_get(message, field.steps)):
                return "mistyped_field", f"the {name} id ({field.path}) has half a surrogate pair, which is no text"
        lines = self._fields.get("lines")
        elements = _MISSING if lines is None else _get(message, lines.steps)
        for element in elements if isinstance(elements, list) else []:
            if not _is_encodable(_get(element, self._layout.line_item.steps)):
                return "mistyped_field", "the item id of a line has half a surrogate pair, which is no text"
        return None


def refusal(error: Exception, withheld: bool) -> Refusal:
    """The reason of a message that msgspec refused."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return Refusal("unparsable", text or type(error).__name__, withheld)
    if "missing required field" in text or "of at least length" in text:
        return Refusal("missing_field", text, withheld)
    if "<=" in text or ">=" in text:
        return Refusal("time_out_of_range", text, withheld)
    return Refusal("mistyped_field", text, withheld)


def is_absent(value: object) -> bool:
    """True for null and what is empty; the text "null" comes of exports that know no null."""
    return value in (None, "", "null", [], {})


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(name)


def _is_encodable(value: object) -> bool:
    """False for a text that is no Unicode; true for what is no text."""
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _container(message: Any, steps: Steps) -> Any:
    """The object or array that has the last step of a path that exists."""
    for step in steps[:-1]:
        message = message[step]
    return message


def _get(message: Any, steps: Steps) -> Any:
    """The value at a path; _MISSING where there is none."""
    for step in steps:
        message = _step(message, step)
    return message


def _step(value: Any, step: Step) -> Any:
    if isinstance(step, int):
        return value[step] if isinstance(value, list) and step < len(value) else _MISSING
    return value.get(step, _MISSING) if isinstance(value, dict) else _MISSING
