"""Which models there are, under which names."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from pipelines.contract.adapters import ControlCard, LoraCard, PreprocessorCard, ReferenceCard, UpscalerCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest, UnknownModel, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.request import ImageRequest, Style
from server.catalog.policies import DEFAULT, Policy
from server.catalog.prices import Prices
from server.catalog.routing import Chain
from server.catalog.styles import PRESETS
from server.catalog.upstreams import Upstream
from server.domain.generation import AUTO, LOCAL

Fitting = TypeVar("Fitting", LoraCard, ControlCard, ReferenceCard)

_NONE: Mapping[str, Any] = MappingProxyType({})


class Catalog(msgspec.Struct, frozen=True):
    """What one models.yaml lists; never changes once it is read. Adapters are kept by their names in small letters."""

    default_model: str
    cards: Mapping[str, ModelCard]
    aliases: Mapping[str, str] = _NONE
    styles: Mapping[str, Style] = PRESETS
    loras: Mapping[str, LoraCard] = _NONE
    controlnets: Mapping[str, ControlCard] = _NONE
    ip_adapters: Mapping[str, ReferenceCard] = _NONE
    upscalers: Mapping[str, UpscalerCard] = _NONE
    preprocessors: Mapping[str, PreprocessorCard] = _NONE
    policies: Mapping[str, Policy] = MappingProxyType({DEFAULT: Policy()})
    upstreams: Mapping[str, Upstream] = _NONE
    """Those without a key are among them, switched off."""
    instead: Mapping[str, str] = _NONE
    """By upstream whose own model is gone: what is asked for there instead. Empty as models.yaml is read: it is noticed later."""
    fallbacks: Mapping[str, Chain] = _NONE
    """By model; the server's is that of the model ``""``."""
    prices: Prices = Prices()

    def policy(self, tenant: str) -> Policy:
        """What holds for ``tenant``."""
        return self.policies.get(tenant) or self.policies[DEFAULT]

    def fallback(self, model: str) -> Chain | None:
        """The roads to try after the first one for requests of ``model``; None if nobody has said."""
        return self.fallbacks.get(model, self.fallbacks.get(""))

    def card(self, name: str | None) -> ModelCard:
        """The card a client means by ``name`` (an id, an alias, or None for the default).

        `AUTO` has the default model's, an upstream one that is made for it.
        """
        wanted = self._meant(name)
        upstream = self._upstream(wanted)
        if upstream is not None:
            return upstream.card(wanted)
        found = self.cards.get(self.default_model if wanted == AUTO else wanted)
        if found is None:
            msg = f"The model {name!r} does not exist; there are {', '.join(self.listed)}."
            raise UnknownModel(msg, param="model")
        return found

    def road(self, name: str | None) -> str:
        """The road a client means by ``name``: `LOCAL` for a model of ours, `AUTO`, or an upstream's name."""
        wanted = self._meant(name)
        upstream = self._upstream(wanted)
        if upstream is not None:
            return upstream.name
        return AUTO if wanted == AUTO else LOCAL

    def asked(self, upstream: Upstream, model_id: str) -> str:
        """The model of ``upstream`` that a request for ``model_id`` goes to: the one that it names, or the upstream's own."""
        return upstream.means(model_id) or self.instead.get(upstream.name, upstream.model)

    @property
    def listed(self) -> tuple[str, ...]:
        """Every id that a client may send: models, and the upstreams that are on with theirs."""
        return (*self.cards, *(name for road in self.upstreams.values() if road.on for name in road.ids))

    def _meant(self, name: str | None) -> str:
        wanted = self.default_model if name is None else name
        return self.aliases.get(wanted, wanted)

    def _upstream(self, wanted: str) -> Upstream | None:
        """The upstream of that name, or of the name before the first slash; models of ours go first."""
        return None if wanted in self.cards else self.upstreams.get(wanted.partition("/")[0])

    def style(self, name: str) -> Style:
        """The style a client means by ``name``."""
        found = self.styles.get(name.strip().lower())
        if found is None:
            msg = f"There is no style {name!r}; there are {', '.join(self.styles)}."
            raise InvalidRequest(msg, param="style_preset")
        return found

    def lora(self, name: str, family: Family, param: str = "loras") -> LoraCard:
        """The LoRA called ``name``, in any case, for models of ``family``; errors name ``param`` and what there is instead."""
        return _fitting(self.loras, "LoRA", name, family, param)

    def controlnet(self, name: str, family: Family, param: str = "controls") -> ControlCard:
        """The control network called ``name`` for models of ``family``."""
        return _fitting(self.controlnets, "ControlNet", name, family, param)

    def ip_adapter(self, name: str, family: Family, param: str = "references") -> ReferenceCard:
        """The IP-Adapter called ``name`` for models of ``family``."""
        return _fitting(self.ip_adapters, "IP-Adapter", name, family, param)

    def upscaler(self, name: str, param: str = "upscaler") -> UpscalerCard:
        """The upscaler called ``name``; it works for every model."""
        found = self.upscalers.get(name.strip().casefold())
        if found is None:
            names = ", ".join(card.name for card in self.upscalers.values())
            msg = f"There is no upscaler {name!r}; " + (f"there are {names}." if names else "models.yaml lists none.")
            raise InvalidRequest(msg, param=param)
        return found

    def needed(self, request: ImageRequest) -> tuple[ModelCard, ...]:
        """The cards of every model that ``request`` names: its own and its refiner's."""
        return tuple(self.card(name) for name in dict.fromkeys(request.models))

    @property
    def preload(self) -> tuple[ModelCard, ...]:
        """The cards that each worker loads at its start, the default model first."""
        default = self.card(None)
        return (default, *(card for card in self.cards.values() if card.preload and card.id != default.id))


def _fitting(cards: Mapping[str, Fitting], kind: str, name: str, family: Family, param: str) -> Fitting:
    found = cards.get(name.strip().casefold())
    if found is not None and found.family is family:
        return found
    names = ", ".join(card.name for card in cards.values() if card.family is family)
    there = f"for family {family.value} there are {names}." if names else f"models.yaml lists none for family {family.value}."
    if found is None:
        msg = f"There is no {kind} {name!r}; {there}"
        raise InvalidRequest(msg, param=param)
    msg = f"{kind} {found.name!r} is made for family {found.family.value}, this model is of family {family.value}; {there}"
    raise Unsupported(msg, param=param)
