"""LoRA tags: ``<lora:name>``, ``<lora:name:weight>``, ``<lora:name:text:unet>``, ``<lora:name:te=0.5:unet=0.8>``.

The order of two plain numbers is A1111's: the text encoder's first.
"""

import re

import msgspec

from pipelines.prompts.fragments import MAX_WEIGHT

# A tag ends at the next bracket of either kind, so that a row of unclosed ones is not searched again and again.
_TAG = re.compile(r"<(?:lora|lyco):([^<>]+)>")


class LoraReference(msgspec.Struct, frozen=True):
    """A LoRA that a prompt asks for; weights from -`MAX_WEIGHT` to `MAX_WEIGHT`."""

    name: str
    text_weight: float = 1.0
    unet_weight: float = 1.0


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
    text = _weight(named.get("te", ordered[1] if len(ordered) > 1 else "1"))
    unet = _weight(named["unet"]) if "unet" in named else _weight(ordered[2]) if len(ordered) > 2 else text  # noqa: PLR2004
    return LoraReference(ordered[0].strip(), text, unet)


def _weight(number: str) -> float:
    """The number, within bounds; 1 for what is no number."""
    try:
        weight = float(number)
    except ValueError:
        return 1.0
    return min(max(weight, -MAX_WEIGHT), MAX_WEIGHT) if weight == weight else 1.0  # noqa: PLR0124 - only nan is not itself
