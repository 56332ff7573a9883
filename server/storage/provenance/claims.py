"""What a manifest says of a picture: pure functions from request to claim, in C2PA's words.

A new picture is *created*; what went into it (the picture to start from, control pictures, references) are its inputs. One that
shows the picture that was sent, painted into, grown or enlarged, is that picture *opened* and *edited*: its parent.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from pipelines.contract.request import ImageRequest
from server.domain.origin import Origin, Source, source

GENERATION = "org.aquatint.generation"
"""Our own assertion: the model, and the prompt where the operator allows it."""
_IMAGE = "image"


class Ingredient(msgspec.Struct, frozen=True):
    """A picture that went into another."""

    title: str
    relation: Literal["parentOf", "inputTo"]
    file: Origin | None = None
    """With the manifest to keep; None: all that is known is that there was one."""


class Claim(msgspec.Struct, frozen=True):
    """What is signed, beside the content of the file."""

    actions: tuple[dict[str, Any], ...]
    """With ``ingredientIds`` by `label`."""
    ingredients: tuple[Ingredient, ...] = ()
    facts: dict[str, str] = {}
    """Of our own assertion."""


class Telling(msgspec.Struct, frozen=True):
    """What is to be said beside what has happened."""

    model: str
    """What has made the picture."""
    when: str
    """RFC 3339."""
    text: str = ""
    """The tenant's line for people."""
    prompt: bool = False


def label(index: int) -> str:
    """How actions name ingredient ``index``."""
    return f"in{index}"


def made(request: ImageRequest, origins: Iterable[Origin], telling: Telling) -> Claim:
    """The claim of a picture that ``request`` has brought about."""
    kind = source(request)
    parts = _ingredients(request, kind, {origin.place: origin for origin in origins})
    parents = [label(index) for index, part in enumerate(parts) if part.relation == "parentOf"]
    inputs = [label(index) for index, part in enumerate(parts) if part.relation == "inputTo"]
    agent: dict[str, Any] = {"softwareAgent": {"name": telling.model}, "when": telling.when}
    if telling.text:
        agent["description"] = telling.text
    if inputs:
        agent["parameters"] = {"ingredientIds": inputs}
    facts = {"model": telling.model} | ({"prompt": request.prompt} if telling.prompt else {})
    if kind is Source.GENERATED:
        return Claim(({"action": "c2pa.created", "digitalSourceType": kind.uri, **agent},), parts, facts)
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": parents}}
    verb = "c2pa.resized" if kind is Source.ENHANCED else "c2pa.edited"
    return Claim((opened, {"action": verb, "digitalSourceType": kind.uri, **agent}), parts, facts)


def encoded_again(file: Origin, *, resized: bool, telling: Telling) -> Claim:
    """The claim of a picture that somebody else has made and signed, and that is only encoded anew here: it is the parent."""
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [label(0)]}}
    then = [{"action": "c2pa.resized", "when": telling.when}] if resized else []
    last: dict[str, Any] = {"action": "c2pa.transcoded", "when": telling.when}
    if telling.text:
        last["description"] = telling.text
    return Claim((opened, *then, last), (Ingredient(file.place, "parentOf", file),))


def _ingredients(request: ImageRequest, kind: Source, files: dict[str, Origin]) -> tuple[Ingredient, ...]:
    places: list[tuple[str, Literal["parentOf", "inputTo"]]] = []
    if request.init is not None:
        places.append((_IMAGE, "parentOf" if kind.derived else "inputTo"))
    places += [(f"controls[{index}].image", "inputTo") for index in range(len(request.controls))]
    for index, use in enumerate(request.references):
        # A single picture has one of two names, by how it was sent.
        single = f"references[{index}].image"
        if len(use.pictures) == 1 and single in files:
            places.append((single, "inputTo"))
        else:
            places += [(f"references[{index}].images[{each}]", "inputTo") for each in range(len(use.pictures))]
    return tuple(Ingredient(place, relation, files.get(place)) for place, relation in places)
