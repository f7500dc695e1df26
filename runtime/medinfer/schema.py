"""Frozen dataclasses that check themselves and travel as strict JSON.

A class that derives from `Schema` states its fields by their annotations; every value is checked against them on
construction, and an error names the field's path (`input.mean`). Unknown keys are refused rather than ignored: a key
that a reader does not know may change the meaning of those it does.

Annotations understood: bool, int, float, str, Literal, tuple[T, ...], tuple[T, T], Mapping[str, T], Schema classes,
and unions of these. `Any` stands for a JSON value. A field that is None is left out of the JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from medinfer.errors import SpecError

T = TypeVar("T")


def require(condition: bool, path: str, problem: str) -> None:
    """Raise SpecError unless a condition holds."""
    if not condition:
        raise SpecError(path, problem)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def schema(cls: type[T]) -> type[T]:
    """Make a `Schema` class a frozen, keyword-only dataclass.

    Equality, hash, repr and immutability come from `Schema`, once for all: the code that `dataclass` would generate
    for each class costs a command-line run of one image 20 ms.
    """
    return dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)


class Schema:
    """Base of the classes made by `@schema`; their fields are checked on construction."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The generated __init__ sets each field once; nothing sets one again.
        if name in vars(self) or name not in {field.name for field in dataclasses.fields(self)}:  # type: ignore[arg-type]
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"

    def __post_init__(self) -> None:
        """Check every field, and then the whole."""
        for name, annotation in field_types(type(self)).items():
            # Re-assigned because checking also normalises: lists become tuples, integers in float fields floats.
            object.__setattr__(self, name, _decode(getattr(self, name), annotation, name))
        self.check()

    def check(self) -> None:
        """Check what the annotations cannot say; raises SpecError with a path relative to this object."""

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Build from a JSON object; raises SpecError for unknown or missing keys and bad values."""
        if not isinstance(data, Mapping):
            raise SpecError("", f"expected an object, got {_shown(data)}")
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in data:
            if key not in fields:
                raise SpecError(str(key), "unknown key", hint=f"Known here: {', '.join(sorted(fields))}")
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in data:
                raise SpecError(name, "missing")
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without the fields that are None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: _encode(value) for name, value in values.items() if value is not None}


def dump(schema: Schema) -> str:
    """Return canonical JSON text: sorted keys, ASCII, no NaN, no insignificant space."""
    return json.dumps(schema.to_json(), sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def field_types(cls: type[Schema]) -> dict[str, Any]:
    """Return the resolved annotation of every field of a Schema class, in order."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _encode(value: Any) -> Any:
    if isinstance(value, Schema):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    return value


def _decode(value: Any, annotation: Any, path: str) -> Any:
    """Return `value` as what `annotation` says, or raise SpecError at `path`."""
    origin = get_origin(annotation)
    if annotation is Any:
        return value
    if origin is Literal:
        return _decode_literal(value, get_args(annotation), path)
    if origin in (Union, types.UnionType):
        return _decode_union(value, get_args(annotation), path)
    if origin is tuple:
        return _decode_tuple(value, get_args(annotation), path)
    if origin is not None and issubclass(origin, Mapping):
        return _decode_mapping(value, get_args(annotation)[1], path)
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return _decode_schema(value, annotation, path)
    return _decode_scalar(value, annotation, path)


def _decode_scalar(value: Any, annotation: type, path: str) -> Any:
    if annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise SpecError(path, f"{_shown(value)} is not a finite number")
        return number
    # bool is an int in Python and 1 is not a truth value in JSON: compare the very type.
    if type(value) is not annotation:
        raise SpecError(path, f"expected {_name(annotation)}, got {_shown(value)}")
    return value


def _decode_literal(value: Any, allowed: tuple[Any, ...], path: str) -> Any:
    if not any(type(value) is type(item) and value == item for item in allowed):
        raise SpecError(path, f"{_shown(value)} is not one of {', '.join(map(str, allowed))}")
    return value


def _decode_union(value: Any, options: tuple[Any, ...], path: str) -> Any:
    if value is None and types.NoneType in options:
        return None
    options = tuple(option for option in options if option is not types.NoneType)
    chosen = [option for option in options if _fits(value, option)]
    if chosen:
        return _decode(value, chosen[0], path)
    if len(options) == 1:
        return _decode(value, options[0], path)
    raise SpecError(path, f"expected {' or '.join(map(_name, options))}, got {_shown(value)}")


def _fits(value: Any, option: Any) -> bool:
    """Tell by its outer shape which member of a union a value is meant to be."""
    if get_origin(option) is Literal:
        return isinstance(value, str) and value in get_args(option)
    if get_origin(option) is tuple:
        return isinstance(value, list | tuple)
    if isinstance(option, type) and issubclass(option, Schema):
        keys = set(value) if isinstance(value, Mapping) else set()
        return isinstance(value, option) or bool(keys & set(field_types(option)))
    return type(value) is option


def _decode_tuple(value: Any, items: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise SpecError(path, f"expected a list, got {_shown(value)}")
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise SpecError(path, f"expected {len(items)} values, got {len(value)}")
    return tuple(_decode(item, kind, f"{path}[{i}]") for i, (item, kind) in enumerate(zip(value, items, strict=True)))


def _decode_mapping(value: Any, item: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SpecError(path, f"expected an object, got {_shown(value)}")
    return {key: _decode(entry, item, f"{path}.{key}") for key, entry in value.items()}


def _decode_schema(value: Any, cls: type[Schema], path: str) -> Schema:
    if isinstance(value, cls):
        return value
    try:
        return cls.from_json(value)
    except SpecError as error:
        inner = f"{path}.{error.path}" if error.path else path
        raise SpecError(inner, error.problem, hint=error.hint) from None


def _name(annotation: Any) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    if get_origin(annotation) is Literal:
        return ", ".join(repr(item) for item in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "a list"
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return "{" + ", ".join(field_types(annotation)) + "}"
    return names.get(annotation, str(annotation))


def _shown(value: Any) -> str:
    """Return a value for a message: short, whatever a hostile file holds."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
