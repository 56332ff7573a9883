"""Where a picture comes from: what it was made of, and by what kind of making."""

from enum import StrEnum

import msgspec

from pipelines.contract.enlarging import Enlarger
from pipelines.contract.request import ImageRequest


class Source(StrEnum):
    """The terms of IPTC's NewsCodes for a digital source that can apply to what is made here."""

    GENERATED = "trainedAlgorithmicMedia"
    """A model has made every pixel."""
    COMPOSITE = "compositeWithTrainedAlgorithmicMedia"
    """A model has added to a picture that shows through."""
    ENHANCED = "algorithmicallyEnhanced"
    """A given picture, through a filter that invents nothing."""

    @property
    def uri(self) -> str:
        """The term as metadata names it."""
        return f"http://cv.iptc.org/newscodes/digitalsourcetype/{self.value}"

    @property
    def derived(self) -> bool:
        """Whether the result is a later state of the picture that was sent."""
        return self is not Source.GENERATED


def source(request: ImageRequest) -> Source:
    """What kind of making ``request`` is."""
    init, upscale = request.init, request.upscale
    if init is None:
        return Source.GENERATED
    if init.strength > 0:
        return Source.COMPOSITE if init.inpaints else Source.GENERATED
    if request.hires is not None:  # the second pass draws all of it anew
        return Source.GENERATED
    if upscale is not None and upscale.tiles is None and upscale.enlarger is Enlarger.LANCZOS:
        return Source.ENHANCED
    return Source.COMPOSITE


class Origin(msgspec.Struct, frozen=True):
    """An input's file as it was sent, kept because somebody has signed it."""

    place: str
    """Which input: ``image``, ``controls[0].image``, ``references[0].images[1]``, ..."""
    media_type: str
    data: bytes
