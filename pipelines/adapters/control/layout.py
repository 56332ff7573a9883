"""Which control network some weights are, told by the names and shapes of their tensors."""

import re
from collections.abc import Mapping
from enum import StrEnum

from pipelines.contract.adapters import ControlCard, ControlKind
from pipelines.contract.errors import ModelLoadFailed, Unsupported
from pipelines.contract.family import Family

Shapes = Mapping[str, tuple[int, ...]]


class Layout(StrEnum):
    """What lies in a file or folder."""

    CONTROLNET = "a ControlNet"
    UNION = "a ControlNet-Union"
    SD3 = "a ControlNet for SD3"
    T2I_ADAPTER = "a T2I-Adapter"


ORIGINAL = re.compile(r"(?:control_model\.)?(?:input_hint_block|zero_convs)\.\d+\.")
"""Names of the first release of ControlNet, and of training programs after it."""

_ADAPTER = re.compile(r"(?:adapter\.)?body\.\d+\.(?:resnets\.\d+\.|body\.\d+\.)?(?:block1|in_conv)\.weight")

_RELATIVES = (
    ("lora_controlnet", "a Control-LoRA, which holds only differences from a model's own weights"),
    ("lllite_", "a ControlLLLite, which acts inside the attention layers"),
    ("ctrl_", "a ControlNet-XS"),
)
"""What other inventions' names begin with."""


def layout(shapes: Shapes, what: str) -> Layout:
    """What the tensors with ``shapes`` are; raises `Unsupported` for relatives, `ModelLoadFailed` for anything else."""
    for start, relative in _RELATIVES:
        if any(name.startswith(start) for name in shapes):
            msg = f"{what} is {relative}; only ControlNets, ControlNet-Unions and T2I-Adapters can be used."
            raise Unsupported(msg, param="controls")
    if "pos_embed_input.proj.weight" in shapes:
        return Layout.SD3
    if "controlnet_cond_embedding.conv_in.weight" in shapes:
        return Layout.UNION if "task_embedding" in shapes else Layout.CONTROLNET
    if any(ORIGINAL.match(name) for name in shapes):
        return Layout.CONTROLNET
    if any(_ADAPTER.fullmatch(name) for name in shapes):
        return Layout.T2I_ADAPTER
    names = ", ".join(sorted(shapes)[:3]) or "nothing"
    msg = f"{what} is no control network: it holds {names}, ..."
    raise ModelLoadFailed(msg, param="controls")


def check_layout(found: Layout, card: ControlCard, what: str) -> None:
    """Raise `Unsupported` unless ``found`` is what the card says."""
    kinds = {Layout.UNION: ControlKind.UNION, Layout.T2I_ADAPTER: ControlKind.T2I_ADAPTER}
    kind = kinds.get(found, ControlKind.CONTROLNET)
    if kind is not card.kind:
        msg = f"{what} is {found.value} (kind: {kind.value}); the card of {card.name!r} says kind: {card.kind.value}."
        raise Unsupported(msg, param="controls")
    if kind is ControlKind.CONTROLNET and (found is Layout.SD3) != (card.family is Family.SD3):
        msg = f"{what} is {found.value}; the card of {card.name!r} says family: {card.family.value}."
        raise Unsupported(msg, param="controls")
