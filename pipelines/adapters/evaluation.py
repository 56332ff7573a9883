"""One evaluation of a network over rows with unlike adapters."""

from collections.abc import Sequence

import torch

from pipelines.adapters import control, lora
from pipelines.adapters.additions import Additions
from pipelines.adapters.references import attending
from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Family


def evaluate(
    family: Family,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
    additions: Sequence[Additions],
    *,
    skip_layers: tuple[int, ...] = (),
) -> torch.Tensor:
    """The network's prediction [n, C, h, w] for n rows, each with its own ``additions``; in company as if alone.

    ``latents`` are the network's input: scaled, with mask channels where it takes any.
    """
    if not any(additions):
        return family.evaluate(latents, timesteps, conditioning, skip_layers)
    added = control.residuals(family, latents, timesteps, conditioning, [each.controls for each in additions])
    with (
        lora.applied(family.network, [each.loras for each in additions]),
        attending.applied([each.references for each in additions]),
    ):
        return family.evaluate(latents, timesteps, conditioning, skip_layers, added)
