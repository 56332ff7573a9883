"""From a request's references to what acts on one of its rows."""

import torch

from pipelines.adapters.opened import Find
from pipelines.adapters.references.image_prompt import ImagePrompt
from pipelines.adapters.references.part import ReferencePart
from pipelines.contract.request import ImageRequest
from pipelines.families.family import Family


def parts(request: ImageRequest, family: Family, find: Find) -> tuple[ReferencePart, ...]:
    """The parts of each row of ``request``, in the order of its uses; the pictures are read here, once for all rows.

    Raises `Unsupported` for an adapter that fits another model of this family, but not this one.
    """
    found: list[ReferencePart] = []
    for use in request.references:
        prompt = find(use.card)
        if not isinstance(prompt, ImagePrompt):
            msg = f"unreachable: {use.card.name!r} was opened as something else"
            raise TypeError(msg)
        sites = prompt.sites(family.network)
        if use.weight == 0.0:
            continue
        tokens = torch.cat([prompt.tokens(picture) for picture in use.pictures], dim=1)
        found.append(ReferencePart(prompt, sites, tokens, use.weight, use.start, use.end))
        if request.sampling.guided:
            # As often as there are pictures, as in diffusers: equal tokens share one picture's attention, which changes nothing,
            # and both prompts' evaluations have as many.
            silence = torch.cat([prompt.silence()] * len(use.pictures), dim=1)
            found.append(ReferencePart(prompt, sites, silence, use.weight, use.start, use.end, negative=True))
    return tuple(found)
