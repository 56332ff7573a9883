"""Where in a network pictures are attended to: its cross-attentions, in the order that IP-Adapters' files count them."""

from typing import Any

import msgspec

from pipelines.adapters.references.layout import Layout, called
from pipelines.contract.errors import Unsupported
from pipelines.families.compiling import compiled

_SELF = "attn1.processor"
"""How diffusers ends the name of a self-attention's processor."""


class Sites(msgspec.Struct, frozen=True):
    """What of one network concerns IP-Adapters."""

    attentions: tuple[Any, ...]
    """diffusers' ``Attention`` modules."""
    width: int
    """Of the prompt tokens that they attend to."""
    compiled: tuple[Any, ...] = ()
    """The network's compiled blocks."""


def cross_attentions(network: Any) -> Sites:
    """Those of a UNet of diffusers; it is walked through, which takes as long as a small tick."""
    names = [name for name in network.attn_processors if not name.endswith(_SELF)]
    found = tuple(network.get_submodule(name.removesuffix(".processor")) for name in names)
    return Sites(found, int(network.config.cross_attention_dim), compiled(network))


def check(name: str, layout: Layout, sites: Sites) -> None:
    """Raise `Unsupported` if the IP-Adapter ``name`` does not fit the network: it was made for another kind of model."""
    there = tuple(attention.to_q.out_features for attention in sites.attentions)
    if (layout.layers, layout.width) == (there, sites.width):
        return
    mine, yours = called(len(layout.layers), layout.width), called(len(there), sites.width)
    if mine == yours:
        mine, yours = f"{mine}, {_first(layout.layers)}", f"{yours}, {_first(there)}"
    msg = f"The IP-Adapter {name!r} was made for networks with {mine}; this model's has {yours}. Use one made for it."
    raise Unsupported(msg, param="references")


def _first(widths: tuple[int, ...]) -> str:
    return f"{', '.join(str(width) for width in widths)} wide"
