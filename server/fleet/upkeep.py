"""What a worker is to be told of the catalog, at its start and after an edit. Pure functions."""

from collections.abc import Collection

from pipelines.contract.messages import KnowModel, LoadModel
from server.fleet.holdings import Holdings
from server.fleet.roster import Roster, for_worker

_LIVE = ("limits", "pin", "defaults")
"""What a worker goes by and can change without loading anything."""


def introduction(roster: Roster, wanted: Collection[str], hopeless: Collection[str]) -> list[LoadModel | KnowModel]:
    """For a new worker: load what is preloaded or ``wanted``, know the rest; nothing is loaded that is ``hopeless``."""
    eager = [*roster.eager, *(name for name in roster.cards if name in wanted and name not in roster.eager)]
    order = [*eager, *(name for name in roster.cards if name not in eager)]
    return [_command(roster, name, load=name in eager and name not in hopeless) for name in order]


def adoption(roster: Roster, former: Roster, holdings: Holdings) -> list[LoadModel | KnowModel]:
    """For a worker that knows ``former``: what is new or changed.

    Loaded at once are models whose card was changed while they were on the device, and those that have become eager.
    """
    present = {*holdings.loaded, *holdings.loading}
    ids = {holdings.cards[name].id for name in present if name in holdings.cards}
    commands: list[LoadModel | KnowModel] = []
    for name, card in roster.cards.items():
        newly_eager = name in roster.eager and name not in former.eager and name not in present
        if name not in holdings.cards:
            commands.append(_command(roster, name, load=newly_eager or card.id in ids))
        elif newly_eager:
            commands.append(_command(roster, name, load=True))
        elif any(getattr(holdings.cards[name], key) != getattr(card, key) for key in _LIVE):
            commands.append(_command(roster, name, load=False))
    return commands


def outdated(roster: Roster, holdings: Holdings) -> list[str]:
    """Names the worker knows that are in the catalog no more."""
    return [name for name in holdings.cards if name not in roster.cards]


def _command(roster: Roster, name: str, *, load: bool) -> LoadModel | KnowModel:
    card = for_worker(name, roster.cards[name])
    return LoadModel(card) if load else KnowModel(card)
