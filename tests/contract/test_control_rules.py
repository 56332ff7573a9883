"""What a request may ask of control networks, told from their cards alone."""

import msgspec
import pytest

from pipelines.contract.adapters import ControlCard, ControlKind
from pipelines.contract.control import Balance, ControlUse
from pipelines.contract.control_rules import MOST_CONTROLS, check_controls
from pipelines.contract.errors import InvalidRequest, TooLarge, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.picture import Picture

PICTURE = Picture(width=1, height=1, mode="L", data=b"\0")
CANNY = ControlCard(name="canny", source="dir:x", family=Family.SD)
UNION = ControlCard(name="many", source="dir:x", family=Family.SDXL, kind=ControlKind.UNION, modes={"pose": 0, "depth": 1})
ADAPTER = ControlCard(name="sketch", source="dir:x", family=Family.SD, kind=ControlKind.T2I_ADAPTER)
SD3 = ControlCard(name="tile", source="dir:x", family=Family.SD3)


def use(card=CANNY, **changes):
    return ControlUse(**({"card": card, "picture": PICTURE} | changes))


@pytest.mark.parametrize(
    "uses",
    [
        (),
        (use(),),
        (use(weight=0.0), use(weight=2.0, start=0.2, end=0.3), use(balance=Balance.CONTROL)),
        (use(UNION, mode="pose"), use(UNION, mode="depth", weight=0.5)),
        (use(ADAPTER, balance=Balance.PROMPT),),
        (use(SD3),),
        (use(),) * MOST_CONTROLS,
    ],
)
def test_what_may_be_asked(uses):
    check_controls(uses, uses[0].card.family if uses else Family.SD)


@pytest.mark.parametrize(
    ("uses", "kind", "words"),
    [
        ((use(weight=2.1),), InvalidRequest, "from 0 to 2, not 2.1"),
        ((use(weight=-0.1),), InvalidRequest, "from 0 to 2"),
        ((use(weight=float("nan")),), InvalidRequest, "from 0 to 2"),
        ((use(start=0.5, end=0.5),), InvalidRequest, "from 0.5 to 0.5"),
        ((use(start=-0.1),), InvalidRequest, "from -0.1 to 1"),
        ((use(end=1.5),), InvalidRequest, "from 0 to 1.5"),
        ((use(mode="pose"),), InvalidRequest, "leave out the mode 'pose'"),
        ((use(preprocessor="canny"),), InvalidRequest, "still to be preprocessed by 'canny'"),
        ((use(UNION),), InvalidRequest, "depth, pose"),
        ((use(UNION, mode="edges"),), InvalidRequest, "no mode 'edges'. It knows: depth, pose"),
        ((use(msgspec.structs.replace(UNION, modes={}), mode="pose"),), InvalidRequest, "names no modes"),
        ((use(UNION, mode="pose"), use(UNION, mode="depth", balance=Balance.PROMPT)), InvalidRequest, "one balance"),
        ((use(SD3, balance=Balance.CONTROL),), Unsupported, "'control' is not for SD3"),
        ((use(msgspec.structs.replace(UNION, family=Family.SD), mode="pose"),), Unsupported, "'sdxl' models only"),
        ((use(msgspec.structs.replace(ADAPTER, family=Family.SD3)),), Unsupported, "'sd' and 'sdxl' models only"),
        ((use(),) * (MOST_CONTROLS + 1), TooLarge, "at most 8"),
    ],
)
def test_what_may_not(uses, kind, words):
    with pytest.raises(kind, match=words) as caught:
        check_controls(uses, uses[0].card.family)
    assert caught.value.param == "controls"


def test_another_family_s_network_is_named_with_both():
    with pytest.raises(Unsupported, match=r"'canny' is for 'sd' models, this model is of family 'sdxl'"):
        check_controls((use(),), Family.SDXL)
