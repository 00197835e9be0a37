"""The keys of the configuration, read off the schema: name, type in plain words, default and meaning.

Errors of `configs.load` and the page of `configs.reference` speak of a key in the same words, because both take them
from here.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel

from configs.named import OrPlugIn
from configs.schema import Config

_UNIONS = (Union, types.UnionType)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the configuration."""

    name: str
    """Dotted; an item of a list is `[]`, as in `rewards[].use`."""
    type: str
    """In words that follow "is not": `an integer above 0`."""
    required: bool
    default: Any
    """None when the key is required."""
    doc: str
    literals: tuple[str, ...] = ()
    """The allowed values, where they are a closed list of words."""
    text: bool = False
    """Whether the value is free text."""
    numeric: bool = False
    """Whether the value is a number, or some numbers."""


@dataclass(frozen=True, slots=True)
class SectionKeys:
    """A section of the configuration with its keys, in the order of the schema."""

    name: str
    doc: str
    keys: tuple[Key, ...]


@cache
def sections() -> tuple[SectionKeys, ...]:
    """All sections of the schema."""
    return tuple(_sections(Config, ""))


@cache
def keys_by_name() -> dict[str, Key]:
    """Every key of the schema by its dotted name."""
    return {key.name: key for section in sections() for key in section.keys}


def section_names() -> tuple[str, ...]:
    """Names of the sections: `run`, `model`, ..., and `rewards[]` for an item of that list."""
    return tuple(section.name for section in sections() if section.name)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[SectionKeys]:
    keys: list[Key] = []
    nested: list[SectionKeys] = []
    for name, field in model.model_fields.items():
        dotted = f"{prefix}.{name}" if prefix else name
        annotation = field.annotation
        section = _section_of(annotation)
        if section is not None:
            nested.extend(_sections(section, f"{dotted}[]" if get_origin(annotation) is tuple else dotted))
            if section is annotation:
                continue
        keys.append(
            Key(
                name=dotted,
                type=_describe(annotation, field.metadata),
                required=field.is_required(),
                default=None if field.is_required() else _default(field.get_default(call_default_factory=True)),
                doc=" ".join((field.description or (f"See `{dotted}[]`." if section else "")).split()),
                literals=_literals(annotation, field.metadata),
                text=annotation is str,
                numeric=_is_number(annotation),
            )
        )
    yield SectionKeys(prefix, " ".join((model.__doc__ or "").split()), tuple(keys))
    yield from nested


def _default(value: Any) -> Any:
    if isinstance(value, tuple):
        return [item.model_dump(exclude_defaults=True) if isinstance(item, BaseModel) else item for item in value]
    return value


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that the annotation is, may be, or is a list of."""
    candidates = (annotation, *(get_args(annotation) if get_origin(annotation) in (tuple, *_UNIONS) else ()))
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _is_number(annotation: Any) -> bool:
    """Whether the annotation is an integer or float or a tuple of them, bounded or not, optional or not."""
    if get_origin(annotation) in (Annotated, tuple, *_UNIONS):
        return any(_is_number(argument) for argument in get_args(annotation))
    return annotation in (int, float)


def _literals(annotation: Any, metadata: Sequence[Any]) -> tuple[str, ...]:
    named = (item.names for item in metadata if isinstance(item, OrPlugIn))
    given = get_args(annotation) if get_origin(annotation) is Literal else next(named, ())
    return tuple(map(str, given))


def _describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """The annotation in plain words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in _UNIONS:
        words = [_describe(item, metadata) for item in arguments if item is not type(None)]
        return " or ".join([*words, "null"] if type(None) in arguments else words)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            section = _section_of(annotation)
            return "a list of sections" if section is not None else f"a list, each {_describe(arguments[0])}"
        return f"a list of {len(arguments)}, each {_describe(arguments[0])}"
    if origin is dict:
        return "a mapping"
    if _section_of(annotation) is not None:
        return "a section"
    if annotation is str and (names := _literals(annotation, metadata)):
        return " or ".join([*(f"`{name}`" for name in names), "a plug-in `module:function`"])
    words_of = {str: "text", bool: "true or false", int: "an integer", float: "a number"}
    return " ".join([words_of[annotation], *_bounds(metadata)])


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    """Words for the bounds in the metadata of a field, the lower one first."""
    lower, upper = [], []
    for item in metadata:
        for bound in item if isinstance(item, annotated_types.GroupedMetadata) else (item,):
            if isinstance(bound, annotated_types.Gt):
                lower.append(f"above {bound.gt}")
            elif isinstance(bound, annotated_types.Ge):
                lower.append(f"of at least {bound.ge}")
            elif isinstance(bound, annotated_types.Le):
                upper.append(f"at most {bound.le}")
            elif isinstance(bound, annotated_types.Lt):
                upper.append(f"below {bound.lt}")
    if lower or upper:
        yield " and ".join(lower + upper)
