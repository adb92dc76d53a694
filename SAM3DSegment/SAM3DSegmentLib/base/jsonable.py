"""Dataclasses as JSON, and back with every key and type checked."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from .errors import InputError, require

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as plain dicts, lists, strings and numbers."""
    return dataclasses.asdict(config)


def from_json(cls: type[T], values: Any) -> T:
    """The dataclass `cls` from what `to_json` gave, or from a hand-written JSON file.

    Raises InputError naming an unknown key, so that a misspelt option is not silently ignored.
    """
    require(isinstance(values, dict), f"{cls.__name__} must be a JSON object, not {values!r}.")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        require(key in names, f"{key!r} is not a field of {cls.__name__}; it has {', '.join(names)}.")
    try:
        return cls(**{key: _decode(hints[key], value) for key, value in values.items()})
    except TypeError as error:
        raise InputError(f"{cls.__name__} cannot be read ({error}); check its fields.") from error


def _decode(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), value)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)  # type: ignore[arg-type]
    if origin is tuple:
        require(isinstance(value, (list, tuple)), f"{value!r} is not a list.")
        count = None if arguments[-1] is ... else len(arguments)
        require(count in (None, len(value)), f"{value!r} has {len(value)} items instead of {count}.")
        return tuple(_decode(arguments[0], item) for item in value)
    if origin is dict:
        require(isinstance(value, dict), f"{value!r} is not a JSON object.")
        return {key: _decode(arguments[1], item) for key, item in value.items()}
    if hint is float and isinstance(value, int):
        return float(value)
    plain = origin or hint
    require(
        isinstance(value, plain) and not (plain is int and isinstance(value, bool)),
        f"{value!r} does not have the type {getattr(hint, '__name__', hint)}.",
    )
    return value
