"""What can be wrong with a request's references before anything is loaded. No tensors."""

from pipelines.contract.control import ReferenceUse
from pipelines.contract.errors import InvalidRequest, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.request import ImageRequest

MOST_WEIGHT = 2.0

_FAMILIES = (Family.SD, Family.SDXL)


def mistake(request: ImageRequest, family: Family) -> InvalidRequest | None:
    """Why ``request`` cannot have its references with a model of ``family``; None if it can, for all that is known by now."""
    return next((found for use in request.references if (found := _of(use, request.model, family)) is not None), None)


def _of(use: ReferenceUse, model: str, family: Family) -> InvalidRequest | None:
    name = f"The IP-Adapter {use.card.name!r}"
    if use.card.family not in _FAMILIES:
        msg = f"{name} is for models of family {use.card.family.value!r}: only those for SD 1, SD 2 and SDXL can be used."
        return Unsupported(msg, param="references")
    if family not in {use.card.family, Family.FAKE}:
        msg = f"{name} is for models of family {use.card.family.value!r}; model {model!r} is of family {family.value!r}."
        return Unsupported(msg, param="references")
    if not use.pictures:
        return InvalidRequest(f"{name} is given no picture: it needs at least one.", param="references")
    if not 0.0 <= use.weight <= MOST_WEIGHT:
        msg = f"{name} has the weight {use.weight:g}: it must be from 0 to {MOST_WEIGHT:g}."
        return InvalidRequest(msg, param="references")
    if not 0.0 <= use.start < use.end <= 1.0:
        msg = f"{name} speaks from {use.start:g} to {use.end:g}: these are fractions of the steps, 0 <= start < end <= 1."
        return InvalidRequest(msg, param="references")
    return None
