"""The page of all settings, docs/settings.md, from the sections and the docstrings of their fields.

`python -m engine.settings.reference docs/settings.md` writes it.
"""

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeGuard

from pydantic import BaseModel

from engine.messages.schema_tables import field_docstrings
from engine.settings.sections import Settings

_INTRODUCTION: Final = """\
# Settings

Every setting of `headrace`, made from the code by `python -m engine.settings.reference docs/settings.md`; a test says
when this page is out of date. A setting is given in a TOML file (`--config FILE`), where a heading below is a table, or
in the environment, which goes first: `recommendations.count` is `HEADRACE_RECOMMENDATIONS__COUNT`. Names that do not
exist are refused. `headrace settings` prints what is in force, and where it comes from. The settings of a training are
those of `headrace train --help`.
"""
_KINDS: Final = {"string": "text", "array": "list", "object": "table"}
_LIMITS: Final = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def page() -> str:
    """The page in Markdown, one table a section."""
    definitions = Settings.model_json_schema()["$defs"]
    return "\n".join([_INTRODUCTION, *_sections(Settings, "", definitions)])


def _sections(section: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> Iterator[str]:
    """The tables of the sections inside `section`, each before those inside itself."""
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            inner = field.annotation
            yield f"## `[{prefix}{name}]`\n\n{_text(inspect.getdoc(inner) or '')}\n\n{_table(inner, definitions)}\n"
            yield from _sections(inner, f"{prefix}{name}.", definitions)


def _table(section: type[BaseModel], definitions: dict[str, Any]) -> str:
    docs, properties = field_docstrings(section), definitions[section.__name__]["properties"]
    rows = [
        f"| `{name}` | {_values(properties[name])} | {_default(field.get_default())} | {_text(docs.get(name, ''))} |"
        for name, field in section.model_fields.items()
        if not _is_section(field.annotation)
    ]
    return "\n".join(["| setting | value | default | |", "|---|---|---|---|", *rows])


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _values(schema: dict[str, Any]) -> str:
    """The values that a property allows, from its JSON schema, in a few words."""
    if "anyOf" in schema:
        kinds = [_values(kind) for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = _KINDS.get(schema.get("type", "string"), str(schema.get("type")))
    limits = [f"{sign} {schema[limit]:g}" for limit, sign in _LIMITS.items() if limit in schema]
    return " ".join([kind, *([" ".join(limits)] if limits else [])])


def _default(value: Any) -> str:
    if value is None:
        return "none"
    return f"`{json.dumps(value, default=str)}`"


def _text(docstring: str) -> str:
    """A docstring in one line that a table can hold."""
    return " ".join(docstring.split()).replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
