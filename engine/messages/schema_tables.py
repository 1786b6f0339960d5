"""Tables of the message schemas in docs/messages.md, rendered from the structs and the docstrings of their fields.

    python -m engine.messages.schema_tables docs/messages.md      # brings the tables of the page up to date

In the page, a line `<!-- schema MODULE:STRUCT -->` comes before each table.
"""

import ast
import importlib
import inspect
import json
import re
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect as schema

_TABLE: Final = re.compile(r"(<!-- schema ([\w.]+):(\w+) -->\n)(?:\n?\|.*\n)*")
_NAMES: Final[dict[type[schema.Type], str]] = {
    schema.BoolType: "boolean",
    schema.FloatType: "number",
    schema.IntType: "integer",
    schema.NoneType: "null",
    schema.StrType: "text",
}


def rendered(page: str) -> str:
    """A page with all of its tables up to date."""
    return _TABLE.sub(
        lambda match: f"{match[1]}\n{table(getattr(importlib.import_module(match[2]), match[3]))}\n", page
    )


def table(struct: type[msgspec.Struct]) -> str:
    """The fields of a struct as a table in Markdown: name, type, default and docstring.

    Raises:
        KeyError: a field has no docstring, or a type that no message has had so far.
    """
    info = schema.type_info(struct)
    if not isinstance(info, schema.StructType):
        raise TypeError(f"{struct.__name__} is no struct")
    docs = field_docstrings(struct)
    rows = [
        f"| `{field.encode_name}` | {_type(field.type)} | {_default(field)} | {docs[field.name]} |"
        for field in info.fields
    ]
    return "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows])


def _type(of: schema.Type) -> str:
    if isinstance(of, schema.ListType):
        return f"list of {_type(of.item_type)}"
    if isinstance(of, schema.DictType):
        return f"object of {_type(of.value_type)}"
    if isinstance(of, schema.StructType):
        return of.cls.__name__
    if isinstance(of, schema.UnionType):
        return " or ".join(map(_type, of.types))
    return _NAMES[type(of)]


def _default(field: schema.Field) -> str:
    if field.required:
        return "required"
    value: Any = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"`{json.dumps(value)}`"


def field_docstrings(struct: type) -> dict[str, str]:
    """The texts under the fields of a class, by field."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    docs = {}
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for statement, following in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = following.value if isinstance(following, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docs[statement.target.id] = " ".join(text.value.split())
    return docs


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(rendered(Path(name).read_text(encoding="utf-8")), encoding="utf-8")
