"""LoRA tags: ``<lora:name>``, ``<lora:name:weight>``, ``<lora:name:text:unet>``, ``<lora:name:te=0.5:unet=0.8>``.

The order of two plain numbers is A1111's: the text encoder's first. Here, and not beside the rest of a prompt's syntax, because
the server must know what a prompt asks for before any work.
"""

import re

import msgspec

MAX_WEIGHT = 20.0
"""Weights are held to -20..20: beyond a few units a picture is noise already, and float16 must not overflow."""

# A tag ends at the next bracket of either kind, so that a row of unclosed ones is not searched again and again.
_TAG = re.compile(r"<(?:lora|lyco):([^<>]+)>")


class LoraReference(msgspec.Struct, frozen=True):
    """A LoRA that a prompt asks for; weights from -`MAX_WEIGHT` to `MAX_WEIGHT`, None where the tag says nothing of them."""

    name: str
    text_weight: float | None = None
    unet_weight: float | None = None


def extract(text: str) -> tuple[str, tuple[LoraReference, ...]]:
    """``text`` without its LoRA tags, and what they ask for, in order. A tag without a name is text."""
    found: list[LoraReference] = []

    def take(tag: re.Match[str]) -> str:
        reference = _reference(tag[1])
        if reference is None:
            return tag[0]
        found.append(reference)
        return ""

    return _TAG.sub(take, text), tuple(found)


def tag(name: str, text_weight: float, unet_weight: float) -> str:
    """The shortest tag that asks for these weights."""
    if text_weight == unet_weight:
        return f"<lora:{name}:{unet_weight:g}>"
    return f"<lora:{name}:{text_weight:g}:{unet_weight:g}>"


def _reference(arguments: str) -> LoraReference | None:
    ordered: list[str] = []
    named: dict[str, str] = {}
    for argument in arguments.split(":"):
        key, equals, value = argument.partition("=")
        if equals and key.strip() in ("te", "unet"):
            named[key.strip()] = value
        else:
            ordered.append(argument)
    if not ordered or not ordered[0].strip():
        return None
    text = _weight(named.get("te", ordered[1] if len(ordered) > 1 else ""))
    unet = _weight(named["unet"]) if "unet" in named else _weight(ordered[2]) if len(ordered) > 2 else text  # noqa: PLR2004
    return LoraReference(ordered[0].strip(), text, unet)


def _weight(number: str) -> float | None:
    """The number, within bounds; None for what is no number."""
    try:
        weight = float(number)
    except ValueError:
        return None
    return min(max(weight, -MAX_WEIGHT), MAX_WEIGHT) if weight == weight else None  # noqa: PLR0124 - only nan is not itself
