"""The JSON Schema (draft 2020-12) of the configuration file, made from the models that check it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from sidecar.config import schema
from sidecar.config.keys import Section

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """A key that is not needed is left out; it is never null."""

    schema_dialect = DIALECT

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """Return the schema: a description on every key, no unknown keys, `${…}` wherever a scalar stands."""
    made: dict[str, Any] = schema.File.model_json_schema(by_alias=True, schema_generator=_Generator)
    for model in (schema.File, *_models()):
        part = made if model is schema.File else made["$defs"].get(model.__name__)
        if part is not None:
            part.pop("title", None)
            needed = [*schema.required(model)]
            if needed:
                part["required"] = needed
    for kind in schema.caller_kinds():
        made["$defs"][schema.caller_keys(kind).__name__]["required"] = list(schema.caller_required(kind))
    return {"$schema": DIALECT, "title": "Configuration of the token sidecar", **made}


def _models() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    waiting: list[type[BaseModel]] = [Section]
    while waiting:
        below = waiting.pop().__subclasses__()
        found += below
        waiting += below
    return found
