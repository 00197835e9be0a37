"""Keys whose value is one of some names, or a plug-in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from configs.plugins import is_plug_in


@dataclass(frozen=True, slots=True)
class OrPlugIn:
    """Annotates a text of the schema that is one of these names, or `module:function`."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: str) -> str:
        if value not in self.names and not is_plug_in(value):
            raise PydanticCustomError("or_plug_in", "is none of the names, and no plug-in")
        return value
