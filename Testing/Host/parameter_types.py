"""How one parameter of a parameter node is checked, written as text or as a node reference, and read back."""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from typing import Any

import slicer


class Default:
    """Annotation: the value of a parameter that nobody has set."""

    def __init__(self, value: Any = None, *, generator=None):
        self._value, self._generator = value, generator

    @property
    def value(self) -> Any:
        return self._generator() if self._generator else self._value


class Decimals:
    """Annotation: decimals that a spin box shows."""

    def __init__(self, value: int):
        self.value = value


class SingleStep:
    """Annotation: what one step of a spin box or slider adds."""

    def __init__(self, value: float):
        self.value = value


class Validator:
    """Base class of the annotations that refuse values."""

    def validate(self, value: Any) -> None:
        raise NotImplementedError


class WithinRange(Validator):
    def __init__(self, minimum: float, maximum: float):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not between {self.minimum} and {self.maximum}")


class Minimum(Validator):
    def __init__(self, minimum: float):
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"{value} is less than {self.minimum}")


class Maximum(Validator):
    def __init__(self, maximum: float):
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"{value} is more than {self.maximum}")


class Choice(Validator):
    def __init__(self, choices):
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


class Exclude(Validator):
    def __init__(self, excludedValues):
        self.excludedValues = excludedValues

    def validate(self, value: Any) -> None:
        if value in self.excludedValues:
            raise ValueError(f"{value!r} is excluded")


class ParameterType:
    """One annotated member of a parameter node wrapper: its kind, annotations and default."""

    def __init__(self, hint: Any, hasDefault: bool, default: Any):
        self.hint = hint
        annotated = typing.get_origin(hint) is typing.Annotated
        self.annotations = hint.__metadata__ if annotated else ()
        bare = hint.__origin__ if annotated else hint
        isUnion = typing.get_origin(bare) in (typing.Union, types.UnionType)
        members = typing.get_args(bare) if isUnion else (bare,)
        self.kinds = tuple(member for member in members if member is not type(None))
        self.isOptional = len(self.kinds) < len(members)
        self.isNode = all(isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode) for kind in self.kinds)
        self._checkSupported()
        self.isOptional = self.isOptional or self.isNode
        self._default = Default(default) if hasDefault else self._findDefault()

    @property
    def kind(self) -> type:
        return self.kinds[0]

    @property
    def isEnum(self) -> bool:
        return issubclass(self.kind, enum.Enum)

    def annotation(self, kind: type) -> Any:
        return next((item for item in self.annotations if isinstance(item, kind)), None)

    def _checkSupported(self) -> None:
        plain = (str, int, float, bool)
        known = self.isNode or (
            len(self.kinds) == 1
            and isinstance(self.kinds[0], type)
            and (self.kinds[0] in plain or issubclass(self.kinds[0], (enum.Enum, pathlib.PurePath)))
        )
        if not known:
            raise TypeError(f"the host's parameter nodes do not know the type {self.hint}")

    def _findDefault(self) -> Default:
        given = self.annotation(Default)
        if given is not None:
            return given
        if self.isOptional:
            return Default(None)
        return Default(next(iter(self.kind)) if self.isEnum else self.kind())

    @property
    def default(self) -> Any:
        return self._default.value

    def check(self, value: Any) -> None:
        """Raise TypeError or ValueError, as Slicer does, for a value that the parameter cannot have."""
        if value is None and self.isOptional:
            return
        accepted = (int, float) if self.kind is float else self.kinds
        if not isinstance(value, accepted):
            raise TypeError(f"expected {self.kind.__name__}, not {type(value).__name__}: {value!r}")
        for item in self.annotations:
            if isinstance(item, Validator):
                item.validate(value)

    def isIn(self, node, name: str) -> bool:
        return node.HasParameter(name)

    def write(self, node, name: str, value: Any) -> None:
        """A node is a reference beside an empty parameter; that an optional value is None is kept in `name.isNone`."""
        if self.isNode:
            node.SetParameter(name, "")
            node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
            return
        node.SetParameter(name, "" if value is None else value.name if self.isEnum else str(value))
        if self.isOptional:
            node.SetParameter(f"{name}.isNone", str(value is None))

    def read(self, node, name: str) -> Any:
        if self.isNode:
            return node.GetNodeReference(name)
        if self.isOptional and node.GetParameter(f"{name}.isNone") == "True":
            return None
        text = node.GetParameter(name)
        if self.kind is bool:
            return text == "True"
        return self.kind[text] if self.isEnum else self.kind(text)
