"""What control networks add inside the denoising network: tensors with one row per evaluation, zero where nothing controls."""

from collections.abc import Sequence

import msgspec
import torch


class Residuals(msgspec.Struct, frozen=True):
    """Residuals of n evaluations; None where there is nothing of a kind."""

    down: tuple[torch.Tensor, ...] | None = None
    """UNets: added to each skip connection, [n, C, h, w] each, as ControlNets give them."""
    mid: torch.Tensor | None = None
    """UNets: added after the middle block."""
    intra: tuple[torch.Tensor, ...] | None = None
    """UNets: added within each down block, as T2I-Adapters give them."""
    blocks: tuple[torch.Tensor, ...] | None = None
    """Transformers: added after each block or run of blocks, [n, tokens, W] each, as SD3 ControlNets give them."""

    def rows(self, chosen: Sequence[int]) -> "Residuals":
        """Those of some evaluations."""
        own = list(chosen)

        def part(tensors: tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...] | None:
            return None if tensors is None else tuple(tensor[own] for tensor in tensors)

        mid = None if self.mid is None else self.mid[own]
        return Residuals(part(self.down), mid, part(self.intra), part(self.blocks))


NONE = Residuals()
