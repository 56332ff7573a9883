"""One evaluation of a network over rows with unlike adapters."""

from collections.abc import Sequence

import torch

from pipelines.adapters import lora
from pipelines.adapters.additions import Additions
from pipelines.adapters.control.residuals import residuals
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
    forwards = family.forwards(conditioning)
    if len(forwards) == 1:
        return _forward(family, latents, timesteps, forwards[0][1], additions, skip_layers)
    # Adapters act on the rows of one forward: what the family would take apart is taken apart here.
    parts, order = [], []
    for rows, told in forwards:
        chosen = list(rows)
        own = [additions[row] for row in chosen]
        parts.append(evaluate(family, latents[chosen], timesteps[chosen], told, own, skip_layers=skip_layers))
        order += chosen
    return torch.cat(parts)[torch.argsort(torch.tensor(order)).to(latents.device)]


def _forward(  # noqa: PLR0917 - as `evaluate`
    family: Family,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
    additions: Sequence[Additions],
    skip_layers: tuple[int, ...],
) -> torch.Tensor:
    added = residuals(family, latents, timesteps, conditioning, [each.controls for each in additions])
    with (
        lora.applied([each.loras for each in additions]),
        attending.applied([each.references for each in additions]),
    ):
        return family.evaluate(latents, timesteps, conditioning, skip_layers, added)
