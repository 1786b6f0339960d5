"""The OpenAPI document: the framework's paths, with the bodies as msgspec itself checks them.

The framework leaves out bounds of fields that may be null, and every description of a structure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from engine.messages.recommendation import Recommendation
from engine.view import http_messages

_REFERENCE: Final = "#/components/schemas/{name}"
_BODIES: Final = [
    Recommendation,
    *(
        structure
        for structure in vars(http_messages).values()
        if isinstance(structure, type) and issubclass(structure, msgspec.Struct)
    ),
]


def complete(document: Mapping[str, Any], actions: Sequence[str]) -> bytes:
    """The document as JSON.

    Args:
        document: of the framework.
        actions: names that an event's action may have (`clicks.actions`).
    """
    _, bodies = msgspec.json.schema_components(_BODIES, ref_template=_REFERENCE)
    action = bodies["SessionEvent"]["properties"]["action"]
    bodies["SessionEvent"]["properties"]["action"] = action | {
        "anyOf": [{"type": "string", "enum": [*actions]}, {"type": "null"}]
    }
    bodies["SessionEvent"]["anyOf"] = [
        {"required": [name], "properties": {name: {"type": "string"}}} for name in ("item", "search")
    ]
    components = document["components"]
    schemas = components["schemas"] | bodies
    return msgspec.json.encode({**document, "components": components | {"schemas": schemas}})
