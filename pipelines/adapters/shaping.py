"""From a request's uses of adapters to what acts on one row."""

from pipelines.adapters import lora
from pipelines.adapters.additions import UNSHAPED, Shaping
from pipelines.adapters.control import preparing
from pipelines.adapters.opened import Find
from pipelines.adapters.references import uses
from pipelines.contract.request import ImageRequest
from pipelines.families.family import Family


def shaping(request: ImageRequest, family: Family, find: Find) -> Shaping:
    """What the adapters of ``request`` do to each of its images; ``find`` gives the adapter of a card.

    Raises `InvalidRequest` for uses that this model or adapter cannot have.
    """
    loras = lora.parts(request, find)
    controls = preparing.parts(request, family, find, (request.width, request.height))
    references = uses.parts(request, family, find)
    return Shaping(loras, controls, references) if loras or controls or references else UNSHAPED
