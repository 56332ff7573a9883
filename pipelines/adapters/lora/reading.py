"""A LoRA file: its tensors by the module that they are for, and the scales that it names elsewhere."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft.utils.other import get_pattern_key

from pipelines.adapters.lora.keys import Part, Slot, parse
from pipelines.contract.errors import ModelLoadFailed, Unsupported

_METADATA = "lora_adapter_metadata"
"""Where diffusers writes PEFT's settings, among them the alpha that its tensors' names leave out."""

_PREFIXES = {Part.NETWORK: ("unet", "transformer")}
_SHOWN = 3

Module = tuple[Part, str, bool]
"""Part, name, and whether it is written with underscores."""


def grouped(path: Path, names: Mapping[str, object]) -> dict[Module, dict[Slot, str]]:
    """The tensors' ``names`` by module and by what they are.

    Raises `ModelLoadFailed` for a file that is no LoRA, `Unsupported` for one with layers of unknown kinds.
    """
    found: dict[Module, dict[Slot, str]] = {}
    strange: list[str] = []
    for name in names:
        key = parse(name)
        if key is None:
            strange.append(name)
        else:
            found.setdefault((key.part, key.module, key.flat), {})[key.slot] = name
    if not found:
        msg = f"{path} holds no LoRA; " + (f"its tensors are called {some(strange)}." if strange else "it is empty.")
        raise ModelLoadFailed(msg)
    if strange:
        msg = (
            f"it holds {some(strange)}, which is nothing that Aquatint knows: it reads LoRA, LoCon, DoRA, LoHa and LoKr layers"
            " for linear layers and convolutions."
        )
        raise Unsupported(msg)
    return found


class Scales:
    """Alpha over rank, where the file says it in its metadata."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        """Read ``metadata``; raises `ModelLoadFailed` if it is damaged."""
        try:
            told = json.loads(metadata.get(_METADATA, "{}"))
        except ValueError as error:
            msg = f"its {_METADATA} is no JSON: {error}"
            raise ModelLoadFailed(msg) from error
        self._told: dict[str, Any] = told if isinstance(told, dict) else {}

    def of(self, part: Part, path: str, rank: int) -> float | None:
        """What PEFT's settings make of the layer of ``rank`` at ``path``; None where there are none."""
        for prefix in _PREFIXES.get(part, (part.value,)):
            alpha = self._told.get(f"{prefix}.lora_alpha")
            if alpha is not None:
                pattern = self._told.get(f"{prefix}.alpha_pattern") or {}
                alpha = float(pattern.get(get_pattern_key(pattern.keys(), path), alpha))
                return alpha / (rank**0.5 if self._told.get(f"{prefix}.use_rslora") else rank)
        return None


def some(names: list[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
