"""From a request's control images to what acts on each of its rows."""

from collections.abc import Sequence
from typing import cast

from pipelines.adapters.control.network import ControlNetwork
from pipelines.adapters.control.part import ControlPart, Hint
from pipelines.adapters.control.picture import fitted
from pipelines.adapters.opened import Find
from pipelines.contract.adapters import ControlKind
from pipelines.contract.control import Balance, ControlUse
from pipelines.contract.control_rules import check_controls
from pipelines.contract.errors import Unsupported
from pipelines.contract.request import ImageRequest
from pipelines.families.family import Family


def parts(request: ImageRequest, family: Family, find: Find, size: tuple[int, int]) -> tuple[ControlPart, ...]:
    """What the control images of ``request`` do to an image of ``size`` (width, height): the same for every seed.

    Raises `InvalidRequest` for what this model or these networks cannot do.
    """
    uses = request.controls
    if not uses:
        return ()
    check_controls(uses, family.facts.family)
    if family.facts.refines_only:
        msg = "This model is a refiner: there are no control networks for it."
        raise Unsupported(msg, param="controls")
    found: dict[int, list[tuple[ControlNetwork, ControlUse, Hint]]] = {}
    for index, use in enumerate(uses):
        network = cast("ControlNetwork", find(use.card))
        network.check(family)
        mode = use.card.modes[use.mode] if use.card.kind is ControlKind.UNION and use.mode is not None else 0
        read = network.hint(fitted(use.picture, use.resize, size), family, mode)
        hint = Hint(read, use.weight, use.start, use.end, mode)
        found.setdefault(id(network) if network.fused else -index, []).append((network, use, hint))
    return tuple(_part(group) for group in found.values())


def _part(group: Sequence[tuple[ControlNetwork, ControlUse, Hint]]) -> ControlPart:
    network, use, _ = group[0]
    return ControlPart(
        network,
        tuple(hint for _, _, hint in group),
        fades=use.balance is not Balance.BALANCED,
        positive_only=network.positive_only or use.balance is Balance.CONTROL,
    )
