"""YAML as plain values, with the line of each key."""

import re
from typing import Any, TypeVar

import msgspec
import yaml

T = TypeVar("T")

Where = tuple[str | int, ...]
"""A path into the document, such as ``("models", "demo", "limits")``."""


class CatalogError(Exception):
    """models.yaml is wrong; the message names file, line and field."""


class Document:
    """A parsed YAML file that remembers where things stand."""

    __slots__ = ("_lines", "name", "value")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._lines: dict[Where, int] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if node is not None:
                self._note((), node)
            self.value: Any = None if node is None else yaml.SafeLoader("").construct_document(node)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            msg = f"{name}:{line}: {error.problem or 'this is not YAML'}"
            raise CatalogError(msg) from None
        except yaml.YAMLError as error:
            msg = f"{name}:1: {error}"
            raise CatalogError(msg) from None

    def error(self, where: Where, problem: str) -> CatalogError:
        """An error at ``where``, or at the nearest enclosing thing that has a line."""
        known = where
        while known and known not in self._lines:
            known = known[:-1]
        field = ".".join(str(part) for part in where)
        return CatalogError(f"{self.name}:{self._lines.get(known, 1)}: {f'{field}: ' if field else ''}{problem}")

    def convert(self, where: Where, value: object, kind: type[T]) -> T:
        """``value``, which stands at ``where``, as ``kind``; raises `CatalogError` at the field at fault."""
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            problem, _, path = str(error).partition(" - at `$")
            inner = tuple(part for part in re.split(r"[.\[\]`]+", path) if part and part not in {"...", "key in "})
            unknown = re.search(r"unknown field `([^`]+)`", problem)
            if unknown is not None:
                inner = (*inner, unknown[1])
                problem = "there is no such setting"
            raise self.error((*where, *inner), problem) from None

    def _note(self, where: Where, node: yaml.Node) -> None:
        self._lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._note((*where, index), item)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(where, f"line {key.start_mark.line + 1}: a key must be a plain word")
            path = (*where, str(key.value))
            self._lines[path] = key.start_mark.line + 1
            if key.value in seen:
                raise self.error(path, "this key stands here twice")
            seen.add(key.value)
            self._note(path, item)
