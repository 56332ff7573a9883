"""A checkpoint's parts with what its card says over them."""

from collections.abc import Mapping
from typing import Any

from pipelines.contract.catalog import Schedule
from pipelines.families.parts import Parts
from pipelines.sampling.overlay import overridden


class Overlaid:
    """`Parts` whose scheduler config has the card's last word."""

    def __init__(self, parts: Parts, schedule: Schedule) -> None:
        """Take everything else from ``parts``."""
        self._parts, self._schedule = parts, schedule

    def has(self, name: str) -> bool:
        """As the checkpoint says."""
        return self._parts.has(name)

    def module(self, name: str, kind: Any) -> Any:
        """As the checkpoint says."""
        return self._parts.module(name, kind)

    def tokenizer(self, name: str, kind: Any) -> Any:
        """As the checkpoint says."""
        return self._parts.tokenizer(name, kind)

    def settings(self) -> Mapping[str, Any]:
        """As the checkpoint says."""
        return self._parts.settings()

    def scheduler_config(self) -> Mapping[str, Any]:
        """The checkpoint's, with what the card says over it."""
        return overridden(self._parts.scheduler_config(), self._schedule)
