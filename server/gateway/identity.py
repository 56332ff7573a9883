"""What decides a result, as digests: the whole request and everything around it that shapes the pixels or the file.

All of it counts unless it is named in `_BESIDE`: a field that a request gets one day is in the key from its first day on.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec.structs import replace

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.preprocessing import card_for, find
from pipelines.contract.request import ImageRequest, Priority
from server.catalog.catalog import Catalog
from server.catalog.current import CurrentCatalog
from server.catalog.upstreams import Timeouts, Upstream
from server.domain.asset import Delivery
from server.domain.caching import Keys
from server.domain.call import Call
from server.domain.generation import AUTO, LOCAL
from server.domain.wishes import Wishes
from server.fleet.roster import bare
from server.gateway.weights import Weights

FORM = 1
"""Raised when the same words come to mean other pictures without a new version of the package."""

_BESIDE: dict[str, Any] = {"id": "", "priority": Priority.NORMAL, "deadline": None, "preview_every": 0}
"""Fields of a request that no pixel depends on, and what stands in their place."""

_ASIDE: dict[str, Any] = {
    "key_env": None,
    "file_hosts": None,
    "concurrency": 1,
    "queue": 0,
    "attempts": 1,
    "idempotent": False,
    "timeouts": Timeouts(),
    "owned_by": "",
    "description": "",
    "enabled": True,
    "on": True,
}
"""The same of an upstream's entry: how it is asked, and not what."""

_OURS = frozenset({"seed", "seeds", "cache", "previews", "response_format"})

_ENCODER = msgspec.msgpack.Encoder(order="deterministic")

_EXACT = float(1 << 53)
"""Below this a float without a fraction and the whole number are one and the same."""


class Identity:
    """Names requests by what they ask for."""

    __slots__ = ("_current", "_files", "_shared", "_version", "_weights")

    def __init__(
        self,
        current: CurrentCatalog,
        weights: Weights,
        *,
        shared: bool = False,
        engine: str | None = None,
        files: tuple[object, ...] = (),
    ) -> None:
        """``shared``: tenants to whom the same policy applies have the same keys. ``engine`` is the package's version.

        ``files`` is whatever else of this server's settings shows in its files.
        """
        self._files = files
        self._current, self._weights, self._shared = current, weights, shared
        self._version = version("aquatint") if engine is None else engine

    async def of(self, request: ImageRequest, delivery: Delivery, call: Call) -> Keys | None:
        """Its keys; None where nobody knows what would make it: cards are missing, and whoever is asked to make it says so."""
        if {card.id for card in call.cards} != set(request.models):
            return None
        request, catalog = replace(request, **_BESIDE), self._current.catalog
        cards: list[msgspec.Struct] = [*(bare(card) for card in call.cards), *request.adapters]
        try:
            cards += _preprocessors(request, catalog)
        except InvalidRequest:
            return None
        around = {
            "form": FORM,
            "version": self._version,
            "tenant": "" if self._shared else call.tenant,
            "policy": catalog.policy(call.tenant),
            "road": call.road,
            "upstreams": _upstreams(catalog, call.road),
            "chain": catalog.fallback(request.model) if call.road == AUTO else None,
            "files": self._files,
            "origins": call.origins,
            "wishes": _heard(call.wishes, call.road),
            "delivery": delivery,
            "cards": cards,
            "weights": await self._weights.marks(cards),
        }
        if request.init or request.controls or request.references or call.origins:
            return await asyncio.to_thread(_pictured, request, around)
        # As it would come over a wire: what is a float there is one, however it was written.
        whole = msgspec.convert(msgspec.to_builtins(request), ImageRequest)
        return _keys(around, whole, replace(whole, seeds=(len(request.seeds),)))


def _heard(wishes: Wishes, road: str) -> Wishes:
    """``wishes`` without what says nothing of the picture that is not in the request."""
    if road == LOCAL:
        # Our own engine needs none of them; but if it fails, what steps in for it must be allowed to whoever gets the picture.
        return Wishes(allowed=wishes.allowed)
    return replace(wishes, said=tuple(sorted({*wishes.said} - _OURS)))


def _upstreams(catalog: Catalog, road: str) -> tuple[Upstream, ...]:
    """Those that may make it, in the order in which they are preferred."""
    able = (upstream for upstream in catalog.upstreams.values() if upstream.on and road in (AUTO, upstream.name))
    return tuple(replace(upstream, inputs=dict(upstream.inputs or {}), **_ASIDE) for upstream in able)


def _preprocessors(request: ImageRequest, catalog: Catalog) -> Iterator[PreprocessorCard]:
    """The cards of the weights that make its control images; raises `InvalidRequest` if some cannot be made."""
    for use in request.controls:
        weights = None if use.preprocessor is None else card_for(find(use.preprocessor), catalog.preprocessors)
        if weights is not None:
            yield weights


def _pictured(request: ImageRequest, around: Mapping[str, object]) -> Keys:
    """The same for what is too large for the event loop; runs in a thread."""
    whole = _canonical(msgspec.to_builtins(request, builtin_types=(bytes,)))
    return _keys(around, whole, {**whole, "seeds": [len(request.seeds)]})


def _keys(around: Mapping[str, object], whole: object, seedless: object) -> Keys:
    surroundings = _ENCODER.encode(around)
    # Not the same digest for one image with the seed 1 as for any one image.
    return Keys(_digest(b"exact", surroundings, whole), _digest(b"loose", surroundings, seedless))


def _canonical(value: Any) -> Any:
    """``value`` so that equal ones are encoded alike: numbers by their value, pictures by their digest."""
    match value:
        case dict():
            return {key: _canonical(each) for key, each in value.items()}
        case list() | tuple():
            return [_canonical(each) for each in value]
        case float() if value.is_integer() and abs(value) < _EXACT:
            return int(value)
        case bool():
            return int(value)
        case bytes():
            return hashlib.blake2b(value, digest_size=32).digest()
        case _:
            return value


def _digest(kind: bytes, around: bytes, asked: object) -> str:
    return hashlib.blake2b(_ENCODER.encode([around, asked]), digest_size=32, person=kind).hexdigest()
