"""Which models there are, under which names."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest, UnknownModel
from pipelines.contract.request import ImageRequest, Style
from server.catalog.styles import PRESETS

_NO_ALIASES: Mapping[str, str] = MappingProxyType({})


class Catalog(msgspec.Struct, frozen=True):
    """The models of one models.yaml; never changes once it is read."""

    default_model: str
    cards: Mapping[str, ModelCard]
    aliases: Mapping[str, str] = _NO_ALIASES
    styles: Mapping[str, Style] = PRESETS
    preprocessors: Mapping[str, PreprocessorCard] = MappingProxyType({})

    def card(self, name: str | None) -> ModelCard:
        """The card a client means by ``name`` (an id, an alias, or None for the default)."""
        wanted = self.default_model if name is None else name
        wanted = self.aliases.get(wanted, wanted)
        found = self.cards.get(wanted)
        if found is None:
            msg = f"The model {name!r} does not exist; there are {', '.join(self.cards)}."
            raise UnknownModel(msg, param="model")
        return found

    def style(self, name: str) -> Style:
        """The style a client means by ``name``."""
        found = self.styles.get(name.strip().lower())
        if found is None:
            msg = f"There is no style {name!r}; there are {', '.join(self.styles)}."
            raise InvalidRequest(msg, param="style_preset")
        return found

    def needed(self, request: ImageRequest) -> tuple[ModelCard, ...]:
        """The cards of every model that ``request`` names: its own and its refiner's."""
        return tuple(self.card(name) for name in dict.fromkeys(request.models))

    @property
    def preload(self) -> tuple[ModelCard, ...]:
        """The cards that each worker loads at its start, the default model first."""
        default = self.card(None)
        return (default, *(card for card in self.cards.values() if card.preload and card.id != default.id))
