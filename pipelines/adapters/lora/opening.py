"""From a card to a LoRA on the device: found, read, checked against the model, bound to its modules."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from safetensors.torch import load_file

from pipelines.adapters.files import locate
from pipelines.adapters.lora import origin
from pipelines.adapters.lora.building import Builder, Mismatch
from pipelines.adapters.lora.keys import Part, Slot
from pipelines.adapters.lora.layers import Layer
from pipelines.adapters.lora.parts import Lora
from pipelines.adapters.lora.places import Place, Places
from pipelines.adapters.lora.reading import Module, Scales, grouped, some
from pipelines.contract.adapters import LoraCard
from pipelines.contract.errors import ModelLoadFailed, Unsupported
from pipelines.families.compiling import compiled
from pipelines.families.family import Family
from pipelines.families.progress import Progress
from pipelines.families.weights_file import inspect

_TOLD = 50
"""Layers from one word of progress to the next."""


def open_lora(card: LoraCard, family: Family, progress: Progress) -> Lora:
    """The LoRA of ``card`` for ``family``'s network and text encoders.

    Raises `ModelLoadFailed` for a file that cannot be read, `Unsupported` for one that was made for another model or holds what
    is not supported.
    """
    try:
        return _open(card, family, progress)
    except (ModelLoadFailed, Unsupported) as error:
        msg = f"LoRA {card.name!r}: {error.message}"
        raise type(error)(msg, param="loras") from error


def _open(card: LoraCard, family: Family, progress: Progress) -> Lora:
    if card.family is not family.facts.family:
        msg = f"it is for models of family {card.family.value!r}, this one is of {family.facts.family.value!r}."
        raise Unsupported(msg)
    scheme, _, rest = card.source.partition(":")
    source = f"bundled:loras/{rest}" if scheme == "bundled" else card.source
    path = locate(source, card.revision, card.file, progress)
    contents = inspect(path)
    _check_origin(contents.shapes, family)
    found = grouped(path, contents.shapes)
    targets = _targets(found, family)
    tensors = load_file(path)
    scales = Scales(contents.metadata)
    builder = Builder(family.device, family.dtype)
    network: dict[Any, Layer] = {}
    text: dict[Any, Layer] = {}
    for index, (module, names) in enumerate(found.items()):
        if not index % _TOLD:
            progress(card.name, index / len(found))
        part = module[0]
        bound = network if part is Part.NETWORK else text
        read = {slot: tensors[name] for slot, name in names.items()}
        for place in targets[module]:
            if place.module in bound:
                msg = f"it has two layers for {place.path}."
                raise ModelLoadFailed(msg)
            scale = scales.of(part, place.path, len(read[Slot.DOWN])) if Slot.DOWN in read else None
            bound[place.module] = _layer(builder, read, place, scale)
    return Lora(network, text, compiled(family.network))


def _check_origin(shapes: Mapping[str, tuple[int, ...]], family: Family) -> None:
    made_for, this = origin.of_file(shapes), origin.of_network(family.facts.family, family.network)
    if made_for is not None and this is not None and made_for != this:
        msg = f"it was made for {made_for}, this model is {this}."
        raise Unsupported(msg)


def _targets(found: Collection[Module], family: Family) -> dict[Module, list[Place]]:
    """Where each of the file's layers belongs. Raises `Unsupported` for what the model does not have."""
    modules: dict[Part, Any] = {Part.NETWORK: family.network}
    modules |= {Part(name): module for name, module in family.text_encoders.items()}
    absent = next((part for part, _, _ in found if part not in modules), None)
    if absent is not None:
        msg = f"it changes the text encoder {absent.value!r}, which this model does not have or was loaded without."
        raise Unsupported(msg)
    places = {part: Places(modules[part]) for part in {part for part, _, _ in found}}
    targets = {module: places[module[0]].find(module[1], flat=module[2]) for module in found}
    unknown = [module[1] for module, where in targets.items() if not where]
    if unknown:
        msg = f"it changes modules that this model does not have: {some(unknown)}. It was made for another model."
        raise Unsupported(msg)
    return targets


def _layer(builder: Builder, read: Mapping[Slot, torch.Tensor], place: Place, scale: float | None) -> Layer:
    try:
        return builder.layer(read, place, scale)
    except Mismatch as error:
        msg = f"its layer for {place.path} has the shape {error}. It was made for another model."
        raise Unsupported(msg) from error
