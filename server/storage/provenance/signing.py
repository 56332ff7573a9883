"""Signing files: claims into C2PA manifests inside of them."""

import io
import json
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from PIL import Image

from server.domain.failures import SigningFailed
from server.storage.provenance.claims import GENERATION, Claim, label
from server.storage.provenance.context import configuration
from server.storage.provenance.credentials import BadCredentials, Credentials

if TYPE_CHECKING:
    import c2pa

_GENERATOR = "Aquatint"


class Signer:
    """Signs, from any number of threads at the same time; the library is loaded at the first use, not before.

    The library checks each file against its manifest before it gives it out. Not for the event loop: it computes, and with a time
    stamping authority it waits for that.
    """

    __slots__ = ("_anchors", "_authority", "_context", "_credentials", "_lock", "_native")

    def __init__(self, credentials: Credentials, authority: str | None = None, anchors: bytes = b"") -> None:
        """``authority``: the address of an RFC 3161 time stamping authority; without one nothing is sent anywhere.

        ``anchors``: PEM certificates of those whose signatures in ingredients are noted as trusted.
        """
        self._credentials = credentials
        self._authority = authority
        self._anchors = anchors
        self._lock = threading.Lock()
        self._native: c2pa.Signer | None = None
        self._context: c2pa.Context | None = None

    @property
    def credentials(self) -> Credentials:
        """What it signs with."""
        return self._credentials

    def sign(self, data: bytes, media_type: str, claim: Claim) -> bytes:
        """The file ``data`` with ``claim`` signed into it; raises `SigningFailed`."""
        import c2pa  # noqa: PLC0415 - 50 MB of library that most servers do not need

        try:
            builder = self._builder(claim)
            target = io.BytesIO()
            builder.sign(self._opened()[0], media_type, io.BytesIO(data), target)
        except c2pa.C2paError as error:
            msg = f"The picture could not be signed: {error}"
            raise SigningFailed(msg) from error
        return target.getvalue()

    def prove(self) -> None:
        """Sign a dot, without a time stamp; raises `BadCredentials` if the certificate is none that C2PA accepts."""
        target = io.BytesIO()
        Image.new("L", (1, 1)).save(target, "PNG")
        source = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCreation"
        try:
            claim = Claim(({"action": "c2pa.created", "digitalSourceType": source},))
            Signer(self._credentials).sign(target.getvalue(), "image/png", claim)
        except SigningFailed as error:
            msg = f"Nothing can be signed with the certificate of {self._credentials.subject}: {error.__cause__}"
            raise BadCredentials(msg) from None

    def _opened(self) -> "tuple[c2pa.Signer, c2pa.Context]":
        """One of each for all threads: the library guards them (tried with four and eight)."""
        import c2pa  # noqa: PLC0415

        with self._lock:
            if self._native is None or self._context is None:
                given = self._credentials
                stamps = None if self._authority is None else self._authority.encode()
                signing = c2pa.C2paSignerInfo(given.algorithm.encode(), given.chain, given.key, stamps)
                self._context = c2pa.Context.from_dict(configuration(self._anchors))
                self._native = c2pa.Signer.from_info(signing)
            return self._native, self._context

    def _builder(self, claim: Claim) -> "c2pa.Builder":
        import c2pa  # noqa: PLC0415

        builder = c2pa.Builder(definition(claim), context=self._opened()[1])
        for index, part in enumerate(claim.ingredients):
            if part.file is None:
                continue
            said = json.dumps({"title": part.title, "relationship": part.relation, "label": label(index)})
            try:
                builder.add_ingredient(said, part.file.media_type, io.BytesIO(part.file.data))
            except c2pa.C2paError:
                # What is in the input looked like a manifest and is none: the picture is still what went in.
                bare = (*claim.ingredients[:index], replace(part, file=None), *claim.ingredients[index + 1 :])
                return self._builder(replace(claim, ingredients=bare))
        return builder


def definition(claim: Claim) -> dict[str, Any]:
    """``claim`` as the library reads it; ingredients with a file are added to it later."""
    assertions: list[dict[str, Any]] = [
        {"label": "c2pa.actions.v2", "data": {"actions": list(claim.actions), "allActionsIncluded": True}}
    ]
    if claim.facts:
        assertions.append({"label": GENERATION, "data": claim.facts})
    return {
        "claim_generator_info": [{"name": _GENERATOR, "version": version("aquatint")}],
        "assertions": assertions,
        "ingredients": [
            {"title": part.title, "relationship": part.relation, "label": label(index)}
            for index, part in enumerate(claim.ingredients)
            if part.file is None
        ],
    }
