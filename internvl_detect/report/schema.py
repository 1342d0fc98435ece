"""The JSON schema (draft 2020-12) of a row of results and of ``report.json``, made from the dataclasses of ``verdict``.

    python -m internvl_detect.report.schema > docs/schema/verdict.schema.json

Not here: rows themselves (``Verdict.to_dict``). Readers must pass over keys that they do not know.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

from internvl_detect.explanations import Basis, Reasons, Where
from internvl_detect.verdict import Evidence, Failure, Frame, Region, Stretch, Verdict

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_UNIT = {"score", "probability", "mask_share", "mask_threshold"}  # numbers in [0, 1]


def schema() -> dict[str, Any]:
    """The schema: any row at the top, "report" and every dataclass among ``$defs``."""
    classes = (Verdict, Failure, Frame, Stretch, Region, Evidence, Reasons, Where, Basis)
    defs = {kind.__name__: _of_class(kind) for kind in classes}
    row = {"anyOf": [{"$ref": "#/$defs/Verdict"}, {"$ref": "#/$defs/Failure"}]}
    defs["report"] = {
        "type": "object",
        "description": "report.json of `ivdetect report --out DIR`",
        "properties": {
            "made_with": {"type": "object"},
            "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
            "how_to_read": {"type": "array", "items": {"type": "string"}},
            "rows": {"type": "array", "items": row},
        },
        "required": ["made_with", "counts", "how_to_read", "rows"],
    }
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A row of results of InternVL2-8BDetect",
    }
    return {**head, **row, "$defs": defs}


def _of_class(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties = {}
    for field in dataclasses.fields(kind):
        if field.name == "mask":  # pixels, which no row holds
            continue
        properties[field.name] = _of_type(hints[field.name])
        if field.name in _UNIT:
            number = properties[field.name]
            properties[field.name] = {**number, "minimum": 0, "maximum": 1}
    missing = dataclasses.MISSING
    required = [f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing]
    text = " ".join((kind.__doc__ or "").split())
    return {"type": "object", "description": text, "properties": properties, "required": required}


def _of_type(hint: Any) -> dict[str, Any]:
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if dataclasses.is_dataclass(hint):
        return {"$ref": f"#/$defs/{hint.__name__}"}
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"enum": list(inside)}
    if origin in (typing.Union, types.UnionType):
        made = [_of_type(one) for one in inside]
        if all(set(one) == {"type"} for one in made):
            return {"type": [one["type"] for one in made]}
        return {"anyOf": made}
    if origin is tuple and inside[-1] is Ellipsis:
        return {"type": "array", "items": _of_type(inside[0])}
    if origin is tuple:
        count = len(inside)
        return {"type": "array", "prefixItems": [_of_type(one) for one in inside], "minItems": count, "maxItems": count}
    if origin is dict:
        value = inside[1]
        return {"type": "object"} | ({} if value is Any else {"additionalProperties": _of_type(value)})
    raise TypeError(f"no schema for {hint}")


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
