"""From a file's tensors for one module to the layer, checked against the module and brought to its device."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch

from pipelines.adapters.lora.keys import Slot
from pipelines.adapters.lora.layers import Hadamard, Kronecker, Layer, LowRank, LowRankConv, Magnitude, product
from pipelines.adapters.lora.places import Place
from pipelines.contract.errors import ModelLoadFailed, Unsupported

Tensors = Mapping[Slot, torch.Tensor]

_EXPANDED = 64
"""Ranks up to which a LoHa is written out as low-rank matrices: it can share a batch with others then, and is no larger than an
ordinary LoRA."""


class Mismatch(Exception):
    """A layer has another shape than the module that it is for."""

    def __init__(self, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        super().__init__(f"{_times(found)} instead of {_times(wanted)}")


class Builder:
    """Makes layers for one network."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """On ``device``; in ``dtype`` where a module does not compute in one of its own."""
        self._device, self._dtype = device, dtype

    def layer(self, tensors: Tensors, place: Place, scale: float | None) -> Layer:
        """The layer of ``tensors`` for ``place``; ``scale`` stands in for an alpha that the file does not have.

        Raises `Mismatch`; `ModelLoadFailed` for tensors that lack others or are not finite; `Unsupported`.
        """
        weight = place.module.weight
        dtype = weight.dtype if weight.dtype.is_floating_point else self._dtype

        def sent(tensor: torch.Tensor) -> torch.Tensor:
            # A copy even where nothing changes: the file is mapped, and may be written over.
            largest = tensor.abs().max() if tensor.numel() else torch.zeros(())
            if not largest <= torch.finfo(dtype).max:
                msg = f"{place.path}: there are numbers that are not finite in {str(dtype).removeprefix('torch.')}"
                raise ModelLoadFailed(msg)
            return torch.empty(tensor.shape, device=self._device, dtype=dtype).copy_(tensor)

        own = {slot: tensor.float() for slot, tensor in tensors.items()}
        if Slot.HADA_1A in own:
            layer = _hadamard(own, place, scale, sent)
        elif any(slot.value.startswith("lokr") for slot in own):
            layer = _kronecker(own, place, scale, sent)
        else:
            layer = _low_rank(own, place, scale, sent)
        length = _length(own, place)
        if length is not None:
            # PEFT and LyCORIS measure the base's rows as they are computed with.
            layer.magnitude = Magnitude(length.to(self._device), _dense(weight).to(self._device), layer.delta(), dtype)
        return layer


Sent = Callable[[torch.Tensor], torch.Tensor]


def _low_rank(own: Tensors, place: Place, scale: float | None, sent: Sent) -> Layer:
    down, up, core = _need(own, Slot.DOWN, place), _need(own, Slot.UP, place), own.get(Slot.CORE)
    up, down = up.flatten(1), down if down.ndim == 4 else down[..., None, None]  # noqa: PLR2004 - as a convolution's
    kernel = down.shape[2:] if core is None else core.shape[2:]
    _check((len(up), down.shape[1], *kernel), place)
    if up.shape[1] != len(down) or (core is not None and core.shape[:2] != (len(down), len(down))):
        raise Mismatch(tuple(up.shape), (len(up), len(down)))
    factor = _scale(own, len(down), scale)
    up = _share(up, place)
    if len(place.shape) == 2:  # noqa: PLR2004 - a linear layer
        return LowRank(sent(down.flatten(1)), sent(up), factor)
    up = up[..., None, None]
    return LowRankConv(sent(down), None if core is None else sent(core), sent(up), factor)


def _hadamard(own: Tensors, place: Place, scale: float | None, sent: Sent) -> Layer:
    lefts = [_need(own, slot, place) for slot in (Slot.HADA_1A, Slot.HADA_2A)]
    rights = [_need(own, slot, place) for slot in (Slot.HADA_1B, Slot.HADA_2B)]
    cores = [own[slot] for slot in (Slot.HADA_CORE_1, Slot.HADA_CORE_2) if slot in own]
    factor = _scale(own, len(rights[0]), scale)
    if cores:
        _check((lefts[0].shape[1], rights[0].shape[1], *cores[0].shape[2:]), place)
        factors = [(_share(left, place, axis=1), right, core) for left, right, core in zip(lefts, rights, cores, strict=True)]
        return Hadamard(tuple(tuple(sent(each) for each in factor_) for factor_ in factors), factor, place.shape)
    _check_area(len(lefts[0]), rights[0].flatten(1).shape[1], place)
    lefts = [_share(left, place) for left in lefts]
    rights = [right.flatten(1) for right in rights]
    if prod(len(right) for right in rights) > _EXPANDED:
        pairs = tuple((sent(left), sent(right)) for left, right in zip(lefts, rights, strict=True))
        return Hadamard(pairs, factor, place.shape)
    # (A B) * (C D) is low-rank again: each row of the one times each row of the other.
    up = (lefts[0][:, :, None] * lefts[1][:, None, :]).flatten(1)
    down = (rights[0][:, None] * rights[1][None, :]).flatten(0, 1)
    if len(place.shape) == 2:  # noqa: PLR2004 - a linear layer
        return LowRank(sent(down), sent(up), factor)
    return LowRankConv(sent(down.reshape(-1, *place.shape[1:])), None, sent(up[..., None, None]), factor)


def _kronecker(own: Tensors, place: Place, scale: float | None, sent: Sent) -> Layer:
    first = own[Slot.LOKR_1] if Slot.LOKR_1 in own else _need(own, Slot.LOKR_1A, place) @ _need(own, Slot.LOKR_1B, place)
    kernel = place.shape[2:]
    if Slot.LOKR_2 in own:
        second = own[Slot.LOKR_2]
    else:
        left, right = _need(own, Slot.LOKR_2A, place), _need(own, Slot.LOKR_2B, place)
        second = product(left, right, own.get(Slot.LOKR_CORE))
        if Slot.LOKR_CORE not in own and prod(kernel) > 1:
            second = second.reshape(len(second), -1, *kernel)
    if not kernel:
        second = second.flatten(1)
    elif second.ndim == 2:  # noqa: PLR2004 - a matrix for a convolution one pixel wide
        second = second[..., None, None]
    _check((len(first) * len(second), first.shape[1] * second.shape[1], *second.shape[2:]), place)
    inner = own.get(Slot.LOKR_2B, own.get(Slot.LOKR_1B))
    # Factors that are not themselves low-rank are as they should be: there is no rank to divide alpha by.
    factor = 1.0 if inner is None else _scale(own, len(inner), scale)
    pieces = place.share[1] * (2 if place.swapped else 1)
    if len(first) % pieces:
        msg = f"its LoKr layer for {place.path} lies across modules that are separate here; such a file cannot be split."
        raise Unsupported(msg)
    return Kronecker(sent(_share(first, place)), sent(second), factor)


def _length(own: Tensors, place: Place) -> torch.Tensor | None:
    """DoRA's length of each of the place's outputs."""
    outputs = place.shape[0] * place.share[1]
    if Slot.DORA_SCALE in own:
        length = own[Slot.DORA_SCALE]
        if length.ndim > 1 and length.shape[0] == 1 and outputs != 1:
            msg = f"its dora_scale for {place.path} is over inputs, as early LyCORIS wrote it; only over outputs is supported."
            raise Unsupported(msg)
    elif Slot.MAGNITUDE in own:
        length = own[Slot.MAGNITUDE]
    else:
        return None
    if length.numel() != outputs:
        raise Mismatch((length.numel(),), (outputs,))
    return _share(length.flatten(), place)


def _need(own: Tensors, slot: Slot, place: Place) -> torch.Tensor:
    if slot not in own:
        msg = f"the layer for {place.path} has {', '.join(sorted(each.value for each in own))}, but no {slot.value}"
        raise ModelLoadFailed(msg)
    if own[slot].ndim < 2:  # noqa: PLR2004 - all of them are matrices, or more
        raise Mismatch(tuple(own[slot].shape), place.shape)
    return own[slot]


def _scale(own: Tensors, rank: int, otherwise: float | None) -> float:
    if Slot.ALPHA in own:
        return float(own[Slot.ALPHA].reshape(-1)[0]) / rank
    return 1.0 if otherwise is None else otherwise


def _check(found: tuple[int, ...], place: Place) -> None:
    """``found`` as a convolution's weight, or a linear layer's."""
    outputs, *rest = place.shape
    wanted = (outputs * place.share[1], *rest)
    while len(found) > len(wanted) and found[-1] == 1:
        found = found[:-1]
    if found != wanted:
        raise Mismatch(found, wanted)


def _check_area(outputs: int, rest: int, place: Place) -> None:
    if (outputs, rest) != (place.shape[0] * place.share[1], prod(place.shape[1:])):
        raise Mismatch((outputs, rest), (place.shape[0] * place.share[1], prod(place.shape[1:])))


def _share(rows: torch.Tensor, place: Place, axis: int = 0) -> torch.Tensor:
    """The place's own rows of a layer that several modules share."""
    index, count = place.share
    own = rows.chunk(count, dim=axis)[index]
    return torch.cat(own.chunk(2, dim=axis)[::-1], dim=axis) if place.swapped else own


def _dense(weight: Any) -> torch.Tensor:
    """The base's weight in float32, whatever it is stored as."""
    plain: torch.Tensor = weight.dequantize() if hasattr(weight, "__tensor_flatten__") else weight
    return plain.detach().float()


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
