"""Components that several checkpoints have in common, loaded once: text encoders and VAEs are often the very same weights."""

from collections.abc import Mapping
from typing import Any

from pipelines.families.parts import Parts
from pipelines.families.weights import ModuleWeights
from pipelines.memory.residency import Weights

_SHAREABLE = ("text_encoder", "vae")
"""Denoising networks differ by definition, and may be quantised or compiled."""


class Shared:
    """What is there already, and what one load takes of it."""

    def __init__(self, own: Mapping[str, Weights] | None = None, others: tuple[tuple[str, Weights], ...] = ()) -> None:
        """``own`` is what this model had the last time and is still there; ``others`` are everybody's components."""
        self._own = {name: each for name, each in (own or {}).items() if isinstance(each, ModuleWeights)}
        self._others = [each for name, each in others if isinstance(each, ModuleWeights) and name.startswith(_SHAREABLE)]
        self._taken: dict[str, ModuleWeights] = {}

    def over(self, parts: Parts) -> Parts:
        """``parts``, but for what need not be loaded."""
        return _Sharing(parts, self)

    def taken(self) -> dict[str, Weights]:
        """Every component that was asked for, as large as it is now."""
        for each in self._taken.values():
            each.measure()
        return dict(self._taken)

    def module(self, name: str, kind: Any, parts: Parts) -> Any:
        """Part ``name``: as it was, as another model has it, or loaded."""
        weights = self._own.get(name) if name.startswith(_SHAREABLE) else None
        if weights is None:
            shareable = name.startswith(_SHAREABLE)
            weights = ModuleWeights(parts.module(name, kind), shareable=shareable)
            if shareable:
                weights = next((other for other in self._others if other.same(weights)), weights)
        weights.to_device()
        self._taken[name] = weights
        return weights.module


class _Sharing:
    """Parts that come from the shelf where they can."""

    def __init__(self, parts: Parts, shared: Shared) -> None:
        self._parts, self._shared = parts, shared

    def has(self, name: str) -> bool:
        """As the checkpoint says."""
        return self._parts.has(name)

    def module(self, name: str, kind: Any) -> Any:
        """From the shelf, or loaded."""
        return self._shared.module(name, kind, self._parts)

    def tokenizer(self, name: str, kind: Any) -> Any:
        """As the checkpoint has it."""
        return self._parts.tokenizer(name, kind)

    def settings(self) -> Mapping[str, Any]:
        """As the checkpoint has them."""
        return self._parts.settings()

    def scheduler_config(self) -> Mapping[str, Any]:
        """As the checkpoint has it."""
        return self._parts.scheduler_config()
