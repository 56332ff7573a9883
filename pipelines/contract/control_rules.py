"""What a request may ask of control networks, as far as its cards tell: refused before any work, without torch."""

from collections.abc import Sequence

from pipelines.contract.adapters import ControlCard, ControlKind
from pipelines.contract.control import Balance, ControlUse
from pipelines.contract.errors import InvalidRequest, TooLarge, Unsupported
from pipelines.contract.family import Family

MOST_CONTROLS = 8
"""Control images of one request."""

MOST_WEIGHT = 2.0

_FAMILIES = {
    ControlKind.CONTROLNET: frozenset(Family),
    ControlKind.UNION: frozenset({Family.SDXL, Family.FAKE}),
    ControlKind.T2I_ADAPTER: frozenset({Family.SD, Family.SDXL, Family.FAKE}),
}


def check_controls(uses: Sequence[ControlUse], family: Family) -> None:
    """Hold ``uses`` against the rules for a model of ``family``.

    Raises `InvalidRequest`, `Unsupported` or `TooLarge`, always with the param ``controls``.
    """
    if len(uses) > MOST_CONTROLS:
        msg = f"A request may have at most {MOST_CONTROLS} control images, this one has {len(uses)}."
        raise TooLarge(msg, param="controls")
    balances: dict[str, Balance] = {}
    for use in uses:
        _check_numbers(use)
        check_family(use.card, family)
        _check_mode(use)
        if use.preprocessor is not None:
            msg = f"The picture for {use.card.name!r} is still to be preprocessed by {use.preprocessor!r}: that comes first."
            raise InvalidRequest(msg, param="controls")
        if family is Family.SD3 and use.balance is not Balance.BALANCED:
            msg = (
                f"The balance {use.balance.value!r} is not for SD3: its control networks have no finer and coarser layers. "
                f"Leave it out, and lower the weight or the end of {use.card.name!r} to let the prompt say more."
            )
            raise Unsupported(msg, param="controls")
        if use.card.kind is ControlKind.UNION and balances.setdefault(use.card.name, use.balance) is not use.balance:
            msg = f"The control images for {use.card.name!r} are read together: they must have one balance."
            raise InvalidRequest(msg, param="controls")


def check_family(card: ControlCard, family: Family) -> None:
    """Refuse a control network for models of another family, or of a kind that ``family`` does not have."""
    if card.family is not family:
        msg = f"Control network {card.name!r} is for {card.family.value!r} models, this model is of family {family.value!r}."
        raise Unsupported(msg, param="controls")
    if family not in _FAMILIES[card.kind]:
        known = " and ".join(repr(each.value) for each in sorted(_FAMILIES[card.kind] - {Family.FAKE}))
        msg = f"Control network {card.name!r} is a {card.kind.value}: there are such for {known} models only."
        raise Unsupported(msg, param="controls")


def _check_numbers(use: ControlUse) -> None:
    if not 0.0 <= use.weight <= MOST_WEIGHT:
        msg = f"The weight of control network {use.card.name!r} must be from 0 to {MOST_WEIGHT:g}, not {use.weight:g}."
        raise InvalidRequest(msg, param="controls")
    if not 0.0 <= use.start < use.end <= 1.0:
        msg = (
            f"Control network {use.card.name!r} must start before it ends, both from 0 to 1; "
            f"it is asked to go from {use.start:g} to {use.end:g}."
        )
        raise InvalidRequest(msg, param="controls")


def _check_mode(use: ControlUse) -> None:
    card, known = use.card, ", ".join(sorted(use.card.modes)) or "none (its entry in models.yaml names no modes)"
    if card.kind is not ControlKind.UNION:
        if use.mode is not None:
            msg = f"Control network {card.name!r} is for one kind of control image: leave out the mode {use.mode!r}."
            raise InvalidRequest(msg, param="controls")
    elif use.mode is None:
        msg = f"Control network {card.name!r} is a union: say which mode the picture is. It knows: {known}."
        raise InvalidRequest(msg, param="controls")
    elif use.mode not in card.modes:
        msg = f"Control network {card.name!r} knows no mode {use.mode!r}. It knows: {known}."
        raise InvalidRequest(msg, param="controls")
