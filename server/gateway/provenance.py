"""What a finished picture says of its origin: its signed manifest, its metadata, and whose file is delivered."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec
from PIL import Image

from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest
from server.domain.asset import Delivery
from server.domain.call import Call
from server.domain.clock import Clock, SystemClock
from server.domain.disclosure import Disclosure
from server.domain.generation import Encoded, Generation
from server.domain.origin import Origin, source
from server.storage.kinds import media_type
from server.storage.provenance import claims
from server.storage.provenance.reading import signed as has_manifest
from server.storage.provenance.signing import Signer
from server.storage.xmp import packet


class Made(msgspec.Struct, frozen=True):
    """One finished picture, with all that is known of how it came about."""

    request: ImageRequest
    delivery: Delivery
    call: Call
    picture: Picture | Encoded
    seed: int
    road: str
    model: str
    """What has made it there."""

    @property
    def file(self) -> bytes | None:
        """As an upstream encoded it."""
        return self.picture.file if isinstance(self.picture, Encoded) else None

    @property
    def scaled(self) -> bool:
        """Whether its file shows it in another size or with more around it."""
        return isinstance(self.picture, Encoded) and self.picture.scaled is not None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the file to deliver."""
        return self.delivery.size(self.picture.width, self.picture.height)


def made(generation: Generation, request: ImageRequest, delivery: Delivery, call: Call) -> Iterator[Made]:
    """Each picture of ``generation``."""
    road, model = generation.route.road, generation.route.model or request.model
    for picture, seed in zip(generation.pictures, generation.seeds, strict=True):
        yield Made(request, delivery, call, picture, seed, road, model)


class Provenance:
    """Decides what is said, and has it signed if there is something to sign with; only little files are not for threads."""

    __slots__ = ("_clock", "_disclosure", "_prompts", "_signer")

    def __init__(
        self,
        signer: Signer | None = None,
        disclosure: Callable[[str], Disclosure] = lambda _tenant: Disclosure(),
        *,
        prompts: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """``disclosure`` gives what a tenant's pictures say; ``prompts``: manifests say them, too."""
        self._signer = signer
        self._disclosure = disclosure
        self._prompts = prompts
        self._clock = clock or SystemClock()

    def untouched(self, made: Made) -> bytes | None:
        """The upstream's own file to the bit, if it is as the caller wants it; None: it has to be encoded here.

        Where results are signed, one without a manifest is not passed on: it would be the only one that says nothing.
        """
        file = made.file
        if (
            file is None
            or made.scaled
            or made.delivery.quality is not None
            or (self._signer is not None and not has_manifest(file))
        ):
            return None
        fits = media_type(file) == made.delivery.format.media_type and _size(file) == made.size
        return file if fits else None

    def metadata(self, made: Made) -> bytes | None:
        """The XMP to write into the file; None for none."""
        told = self._disclosure(made.call.tenant)
        return packet(source(made.request), told.text) if told.metadata else None

    def signed(self, data: bytes, made: Made) -> bytes:
        """``data`` with its manifest, which keeps those of what it was made of; raises `SigningFailed`."""
        if self._signer is None:
            return data
        when = datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="seconds")
        text = self._disclosure(made.call.tenant).text
        telling = claims.Telling(made.model, when, text, self._prompts)
        return self._signer.sign(data, made.delivery.format.media_type, self._claim(made, telling))

    def _claim(self, made: Made, telling: claims.Telling) -> claims.Claim:
        kind = None if made.file is None else media_type(made.file)
        if made.file is None or kind is None or not has_manifest(made.file):
            return claims.made(made.request, made.call.origins, telling)
        return claims.encoded_again(Origin(made.road, kind, made.file), resized=_size(made.file) != made.size, telling=telling)


def _size(file: bytes) -> tuple[int, int] | None:
    """Width and height by the file's header; None if Pillow does not know it."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
