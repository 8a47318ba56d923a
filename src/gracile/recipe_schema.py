"""The JSON schema of recipe files, for editors that complete and check YAML."""

import json
from importlib.resources import files
from typing import Any

from gracile.maths.quant_spec import INTEGERS
from gracile.recipe import METHODS, SEARCHES
from gracile.recipe_file import NAME, InputSection, Recipe

# Shipped with the package; the tests compare it with `generated`.
FILE = "recipe.schema.json"
_REFERENCE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
_REFERENCES = ("model", "evaluate", "evaluate_search", "calibration", "fine_tune", "fine_tune_layer", "loss")
_AMOUNT = {"type": ["number", "string", "null"], "default": None}


def recipe_schema() -> dict[str, Any]:
    """The schema that is shipped with the package: JSON Schema, draft 2020-12."""
    data: dict[str, Any] = json.loads(files("gracile").joinpath(FILE).read_text(encoding="utf-8"))
    return data


def generated() -> dict[str, Any]:
    """The schema of the fields as they are now, with the short forms that recipes may have."""
    schema = Recipe.model_json_schema()
    fields, sections = schema["properties"], schema["$defs"]
    for name in _REFERENCES:
        _text_of(fields[name])["pattern"] = _REFERENCE
    # Names that are none of gracile's may be registered; integers come last.
    fields["method"]["pattern"] = rf"^(?!(.*\+)?({'|'.join(INTEGERS)})\+)[^+]+(\+[^+]+)*$"
    fields["method"]["examples"] = ["auto", *METHODS]
    # A bare list is a shape, and a bare name is a search.
    shape = InputSection.model_json_schema()["properties"]["shape"]
    sections["InputSection"] = {"anyOf": [shape, sections["InputSection"]]}
    sections["SearchSection"]["properties"]["candidates"] = {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}},
        ],
        "default": 10,
        "description": "a number of ratios, or a list of them",
    }
    sections["SearchSection"] = {
        "anyOf": [{"enum": list(SEARCHES)}, {"type": "string", "pattern": NAME}, sections["SearchSection"]]
    }
    for name in ("macs", "params", "bytes", "latency"):
        sections["TargetSection"]["properties"][name] |= _AMOUNT
    _object_of(sections["TargetSection"]["properties"]["own"]).update(
        additionalProperties={"type": ["number", "string"]}, minProperties=1, maxProperties=1
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "A recipe of gracile compress",
        "description": "Fields mean what the arguments of gracile.compress of the same name mean.",
    }


def _object_of(field: dict[str, Any]) -> dict[str, Any]:
    """Of a field that may be left out, the form that is an object."""
    forms: list[dict[str, Any]] = field["anyOf"]
    return next(form for form in forms if form.get("type") == "object")


def _text_of(field: dict[str, Any]) -> dict[str, Any]:
    """Of a field that may be left out, the form that is a text."""
    forms: list[dict[str, Any]] = field.get("anyOf", [field])
    return next(form for form in forms if form.get("type") == "string")
