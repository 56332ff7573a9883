"""Which model a LoRA was made for, told from its tensors' names and shapes."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from pipelines.adapters.lora.keys import Part, Slot, parse
from pipelines.contract.family import Family as Architecture

_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}
"""Of the prompt's states, as the network attends to them."""

_FLUX = re.compile(r"(?:double|single)_(?:transformer_)?blocks")
_MMDIT = re.compile(r"joint_blocks|transformer_blocks[._]\d+[._](?:attn[._](?:add_|to_)|ff|norm1)")
_CROSS = re.compile(r"attn2[._]to_[kv]$")
_INWARD = (Slot.DOWN, Slot.HADA_1B)


class Origin(msgspec.Struct, frozen=True):
    """A kind of network."""

    kind: str
    """``unet``, ``sd3`` or ``flux``."""
    width: int | None = None
    """UNets: of the prompt's states."""

    def __str__(self) -> str:
        if self.kind != "unet":
            return {"sd3": "SD3", "flux": "Flux"}[self.kind]
        name = _WIDTHS.get(self.width or 0, "a UNet")
        return f"{name} (cross-attention width {self.width})"


def of_file(shapes: Mapping[str, tuple[int, ...]]) -> Origin | None:
    """What the file was made for; None where nothing tells."""
    for name, shape in shapes.items():
        key = parse(name)
        if key is None or key.part is not Part.NETWORK:
            continue
        if _FLUX.search(key.module):
            return Origin("flux")
        if key.module.startswith(("joint_blocks", "transformer_blocks")) and _MMDIT.search(key.module):
            return Origin("sd3")
        if key.slot in _INWARD and _CROSS.search(key.module) and len(shape) > 1:
            return Origin("unet", shape[1])
    return None


def of_network(family: Architecture, network: Any) -> Origin | None:
    """What the loaded network is; None for one whose blocks differ."""
    if family is Architecture.SD3:
        return Origin("sd3")
    width = network.config.cross_attention_dim
    return Origin("unet", width) if isinstance(width, int) else None
