"""What is wrong with a body, in words a person can act on: where it is, what was expected, what may have been meant."""

import difflib
import re
import types
import typing
from enum import Enum
from typing import Any

import msgspec

from pipelines.contract.errors import InvalidRequest


def explained(error: msgspec.ValidationError, kind: Any, value: Any) -> InvalidRequest:
    """``error``, which arose from reading ``value`` as ``kind``, as ours."""
    problem, _, path = str(error).partition(" - at `$")
    found, place, kind = _followed(re.findall(r"[^.\[\]`]+", path), kind, value)
    missing = re.fullmatch(r"Object missing required field `([^`]+)`", problem)
    if missing is not None:
        param = _joined(place, missing[1])
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    unknown = re.fullmatch(r"Object contains unknown field `([^`]+)`", problem)
    if unknown is not None:
        param = _joined(place, unknown[1])
        return InvalidRequest(f"There is no option '{param}'; {_meant(unknown[1], kind)}", param=param)
    if problem.startswith("Invalid enum value") and (choices := _choices(kind)):
        problem = f"{found!r} is not one of {', '.join(choices)}"
    if not place:
        return InvalidRequest(f"The request body is wrong: {problem}.")
    return InvalidRequest(f"Invalid value for '{place}': {problem}.", param=place)


def structs(kind: Any) -> list[type[msgspec.Struct]]:
    """The structs that ``kind`` may be."""
    return [each for each in _flat(kind) if isinstance(each, type) and issubclass(each, msgspec.Struct)]


def nested(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The fields of ``kind`` that hold more than one plain value."""
    hints = typing.get_type_hints(kind)
    return frozenset(
        name
        for name, hint in hints.items()
        if structs(hint) or any(typing.get_origin(each) in (list, tuple, dict) for each in _flat(hint))
    )


def _followed(parts: list[str], kind: Any, value: Any) -> tuple[Any, str, Any]:
    """The value, its place and its type, at the end of msgspec's path."""
    place = ""
    for part in parts:
        if part.isdecimal():
            kind = next((typing.get_args(each)[0] for each in _flat(kind) if _listed(each)), Any)
            value = value[int(part)] if isinstance(value, list) and int(part) < len(value) else None
            place = f"{place}[{part}]"
            continue
        hints = [typing.get_type_hints(each).get(part) for each in structs(kind)]
        kind = next((hint for hint in hints if hint is not None), Any)
        value = value.get(part) if isinstance(value, dict) else None
        place = _joined(place, part)
    return value, place, kind


def _listed(kind: Any) -> bool:
    return typing.get_origin(kind) in (list, tuple)


def _joined(place: str, field: str) -> str:
    return f"{place}.{field}" if place else field


def _meant(field: str, kind: Any) -> str:
    known = [name for each in structs(kind) for name in each.__struct_encode_fields__]
    near = difflib.get_close_matches(field.lower(), known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}."


def _choices(kind: Any) -> list[str]:
    found: list[str] = []
    for each in _flat(kind):
        if isinstance(each, type) and issubclass(each, Enum):
            found += [str(choice.value) for choice in each]
        elif typing.get_origin(each) is typing.Literal:
            found += [str(choice) for choice in typing.get_args(each)]
    return found


def _flat(kind: Any) -> list[Any]:
    """The members of a union, without their annotations."""
    if typing.get_origin(kind) is typing.Annotated:
        return _flat(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [each for member in typing.get_args(kind) for each in _flat(member)]
    return [kind]
