"""From an IP-Adapter's card to the adapter on the device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pipelines.adapters.files import locate
from pipelines.adapters.references import projection
from pipelines.adapters.references.image_encoder import ImageEncoder, open_encoder
from pipelines.adapters.references.image_prompt import ImagePrompt
from pipelines.adapters.references.layout import IMAGE, LAYERS, Layout, layout_of
from pipelines.adapters.references.sites import check, cross_attentions
from pipelines.contract.adapters import ReferenceCard
from pipelines.contract.errors import AquatintError, ModelLoadFailed, Unsupported
from pipelines.contract.family import Family as Architecture
from pipelines.families.assembly import fill
from pipelines.families.family import Family
from pipelines.families.progress import Progress
from pipelines.families.weights_file import inspect


def open_reference(card: ReferenceCard, family: Family, progress: Progress, encoders: Sequence[ImageEncoder] = ()) -> ImagePrompt:
    """The IP-Adapter of ``card`` in the precision of ``family``; its image encoder is taken from ``encoders`` if it is there.

    Raises `Unsupported` for one that was made for other models or for faces' embeddings, `ModelLoadFailed` for anything else
    that stands in the way.
    """
    _check_family(card, family)
    try:
        return _open(card, family, progress, encoders)
    except AquatintError:
        raise
    except Exception as error:
        msg = f"The IP-Adapter {card.name!r} cannot be loaded from {card.source!r}: {error}"
        raise ModelLoadFailed(msg, param="references") from error


def _check_family(card: ReferenceCard, family: Family) -> None:
    own = family.facts.family
    if own not in {Architecture.SD, Architecture.SDXL}:
        msg = f"IP-Adapters can be used with models of family sd and sdxl; this one is of family {own.value!r}."
        raise Unsupported(msg, param="references")
    if card.family is not own:
        msg = f"The IP-Adapter {card.name!r} is for models of family {card.family.value!r}; this one is of family {own.value!r}."
        raise Unsupported(msg, param="references")
    if family.facts.refines_only:
        msg = "This model is a refiner, and there are no IP-Adapters for refiners: give references to the model before it."
        raise Unsupported(msg, param="references")


def _open(card: ReferenceCard, family: Family, progress: Progress, encoders: Sequence[ImageEncoder]) -> ImagePrompt:
    path = locate(card.source, card.revision, card.file, progress)
    shapes = inspect(path).shapes
    layout = layout_of(card.name, shapes)
    check(card.name, layout, cross_attentions(family.network))
    alike = [each for each in encoders if each.source == card.image_encoder and each.dtype is family.dtype]
    encoder = alike[0] if alike else open_encoder(card, layout, family, progress)
    progress(card.name, 0.0)
    tokens = _projection(path, layout, shapes, family)
    layers = _layers(path, layout, family)
    progress(card.name, 1.0)
    return ImagePrompt(card.name, layout, encoder, tokens, layers)


def _projection(path: Path, layout: Layout, shapes: dict[str, tuple[int, ...]], family: Family) -> Any:
    try:
        module = projection.blank(layout, {key.removeprefix(IMAGE): shape for key, shape in shapes.items()})
    except KeyError as error:
        msg = f"{path.name} lacks {IMAGE}{error.args[0]}, or is of a layout that is not known here."
        raise ModelLoadFailed(msg, param="references") from error
    with safe_open(path, framework="pt") as file:
        tensors = {key.removeprefix(IMAGE): file.get_tensor(key) for key in shapes if key.startswith(IMAGE)}
    named = projection.renamed(layout, tensors)
    return fill(module, named, path.name, device=family.device, dtype=family.dtype, done=lambda _done: None)


def _layers(path: Path, layout: Layout, family: Family) -> torch.nn.ModuleList:
    layers = torch.nn.ModuleList()
    with safe_open(path, framework="pt") as file:
        for index, width in enumerate(layout.layers):
            weight = torch.empty(2 * width, layout.width, device=family.device, dtype=family.dtype)
            for half, name in zip(weight.chunk(2), ("to_k_ip", "to_v_ip"), strict=True):
                half.copy_(file.get_tensor(f"{LAYERS}{2 * index + 1}.{name}.weight"))
            layer = torch.nn.Linear(layout.width, 2 * width, bias=False, device="meta")
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            layers.append(layer)
    return layers.eval()
