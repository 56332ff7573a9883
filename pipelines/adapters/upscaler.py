"""Networks that enlarge pictures: any single-image super-resolution architecture that spandrel knows, from safetensors.

Pictures go through in overlapping tiles, one at a time, so that memory is bounded by the card's ``tile`` and a large picture can
be enlarged between other people's ticks (`pipelines.adapters.tiling` puts the tiles together).
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipelines.adapters.files import locate
from pipelines.adapters.tiling import Grid, grid
from pipelines.contract.adapters import UpscalerCard
from pipelines.contract.errors import EngineFailure, ModelLoadFailed
from pipelines.families.progress import Progress
from pipelines.families.weights_file import inspect

_LEAST_TILE = 32
"""Pixels along a side: below, a tile is all overlap."""

_LEAST_OVERLAP = 16

_SHARE = 8
"""A tile overlaps its neighbours by this part of its side."""

_RGB = 3


class Upscaler:
    """One network on its device."""

    __slots__ = ("_descriptor", "_finite", "bytes", "device", "dtype", "name", "scale", "tile")

    def __init__(self, name: str, descriptor: Any, tile: int) -> None:
        """Take a loaded network; ``tile`` is in pixels of what goes in."""
        self._descriptor = descriptor
        self.name = name
        self.scale: int = descriptor.scale
        """Pixels of what comes out for each that goes in, along one axis."""
        self.device, self.dtype = descriptor.device, descriptor.dtype
        wanted = descriptor.size_requirements
        self.tile = max(tile - tile % wanted.multiple_of, wanted.minimum, _LEAST_TILE // wanted.multiple_of * wanted.multiple_of)
        """Pixels along a side of what goes through at once: as asked, or the nearest that the architecture takes."""
        self._finite = True
        descriptor.model.register_forward_hook(self._look)
        tensors = [*descriptor.model.parameters(), *descriptor.model.buffers()]
        self.bytes = sum(tensor.nbytes for tensor in tensors)

    def grid(self, width: int, height: int) -> Grid:
        """The tiles in which a picture of ``width`` x ``height`` goes through."""
        return grid(width, height, self.tile, max(_LEAST_OVERLAP, self.tile // _SHARE))

    @torch.inference_mode()
    def enlarged(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [3, h, w] in 0..1, `scale` times as large: float32, on the device.

        Raises `EngineFailure` when not even float32 gives finite numbers.
        """
        batch = pixels[None].to(self.device, self.dtype)
        made: torch.Tensor = self._descriptor(batch)
        if not self._finite and self.dtype is not torch.float32:
            made = self._in_float32(batch)
        if not self._finite:
            msg = f"Upscaler {self.name!r} gave no finite numbers, not even in float32."
            raise EngineFailure(msg)
        return made[0].float()

    def _look(self, _module: Any, _inputs: Any, output: Any) -> None:
        """Look for infinities before they are clamped to white."""
        tensor = output if isinstance(output, torch.Tensor) else output[0]
        self._finite = bool(torch.isfinite(tensor).all())

    def _in_float32(self, batch: torch.Tensor) -> torch.Tensor:
        model = self._descriptor.model
        with torch.inference_mode(mode=False):
            model.float()
        try:
            made: torch.Tensor = self._descriptor(batch.float())
        finally:
            with torch.inference_mode(mode=False):
                model.to(self.dtype)  # exact: these weights were of that type before
        return made


def open_upscaler(card: UpscalerCard, device: torch.device, progress: Progress) -> Upscaler:
    """The network of ``card`` on ``device``: in half precision on a GPU, if its architecture bears that.

    Raises `ModelLoadFailed` for what is not there, is a pickle or damaged, or does not enlarge one RGB picture.
    """
    if card.tile < _LEAST_TILE:
        msg = f"Upscaler {card.name!r}: tile must be {_LEAST_TILE} pixels at least, not {card.tile}."
        raise ModelLoadFailed(msg, param="upscale")
    path = locate(card.source, card.revision, card.file, progress)
    inspect(path)
    progress(card.name, 0.0)
    try:
        state = load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        msg = f"Upscaler {card.name!r}: {path} cannot be read: {error}"
        raise ModelLoadFailed(msg, param="upscale") from error
    descriptor = _understood(card, path, state)
    dtype = torch.float32
    if device.type == "cuda" and descriptor.supports_half:
        dtype = torch.float16
    elif device.type == "cuda" and descriptor.supports_bfloat16:
        dtype = torch.bfloat16
    descriptor.eval().to(device, dtype)
    descriptor.model.requires_grad_(requires_grad=False)
    progress(card.name, 1.0)
    return Upscaler(card.name, descriptor, card.tile)


def _understood(card: UpscalerCard, path: Path, state: dict[str, torch.Tensor]) -> Any:
    from spandrel import (  # noqa: PLC0415 - half a second that workers without upscalers need not wait for
        ImageModelDescriptor,
        ModelLoader,
        UnsupportedModelError,
        canonicalize_state_dict,
    )

    where = f"Upscaler {card.name!r}: {path}"
    try:
        descriptor = ModelLoader(torch.device("cpu")).load_from_state_dict(canonicalize_state_dict(state))
    except UnsupportedModelError as error:
        msg = f"{where} is of no architecture that spandrel knows: is it an upscaler?"
        raise ModelLoadFailed(msg, param="upscale") from error
    except Exception as error:  # each architecture finds its own way to fail
        msg = f"{where} cannot be loaded: {type(error).__name__}: {error}"
        raise ModelLoadFailed(msg, param="upscale") from error
    name = f"{where} is a {descriptor.architecture.name}"
    if not isinstance(descriptor, ImageModelDescriptor) or descriptor.purpose != "SR" or descriptor.scale < 2:  # noqa: PLR2004
        msg = f"{name} for {descriptor.purpose} at {descriptor.scale}x: it does not enlarge pictures."
        raise ModelLoadFailed(msg, param="upscale")
    if (descriptor.input_channels, descriptor.output_channels) != (_RGB, _RGB):
        msg = (
            f"{name} with {descriptor.input_channels} channels in and {descriptor.output_channels} out: it must be RGB, 3 and 3."
        )
        raise ModelLoadFailed(msg, param="upscale")
    return descriptor
