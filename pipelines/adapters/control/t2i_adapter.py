"""T2I-Adapter (https://arxiv.org/abs/2302.08453): features of a picture, read once, added in each down block of the UNet."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from pipelines.adapters.control.fit import check_widths
from pipelines.adapters.control.network import Asked, Said
from pipelines.adapters.control.picture import CHANNELS, numbers
from pipelines.adapters.control.scaling import scaled
from pipelines.contract.errors import InvalidRequest, Unsupported
from pipelines.families.family import Family
from pipelines.families.residuals import Residuals
from pipelines.families.weights import ModuleWeights


class T2IAdapterNetwork:
    """A loaded ``T2IAdapter``: full, light, or SDXL's."""

    __slots__ = ("_module", "_name", "bytes", "fused", "positive_only")

    def __init__(self, name: str, module: Any) -> None:
        """Take a module that is on its device, in evaluation mode."""
        self.bytes = ModuleWeights(module).bytes
        self.fused = self.positive_only = False
        self._name, self._module = name, module

    def check(self, family: Family) -> None:
        """As `ControlNetwork` says."""
        config, blocks = self._module.config, list(family.network.config.block_out_channels)
        widths = list(config.channels)
        if config.adapter_type == "light_adapter":
            widths.append(widths[-1])
        # SDXL's speak to the middle block too.
        ours = [*blocks, blocks[-1]] if len(widths) == len(blocks) + 1 else blocks
        check_widths(self._name, {"widths of the blocks": widths}, {"widths of the blocks": ours})
        if config.in_channels not in CHANNELS:
            msg = f"Control network {self._name!r} wants pictures of {config.in_channels} channels."
            raise Unsupported(msg, param="controls")

    def hint(self, picture: Image.Image, family: Family, mode: int) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """One tensor for each place where the UNet takes some."""
        multiple = self._module.downscale_factor
        if picture.width % multiple or picture.height % multiple:
            msg = (
                f"Control network {self._name!r} needs images whose sides are multiples of {multiple}, "
                f"not {picture.width}x{picture.height}."
            )
            raise InvalidRequest(msg, param="controls")
        pixels = numbers(picture, self._module.config.in_channels).to(family.device, family.dtype)
        features = tuple(self._module(pixels))
        found = [tuple(feature.shape[1:]) for feature in features]
        wanted = _places(family, picture.height // family.vae.scale, picture.width // family.vae.scale)[: len(found)]
        if found != wanted:
            msg = f"Control network {self._name!r} gives features of {found} for this size, the model takes {wanted}."
            raise Unsupported(msg, param="controls")
        return features

    def speak(self, family: Family, asked: Asked) -> Sequence[Said]:  # noqa: ARG002
        """What was read, weighed; nothing is evaluated."""
        read = [torch.cat(each) for each in zip(*(part.hints[0].tensors for part in asked.parts), strict=True)]
        weighed = scaled(read, [part.scales(len(read)) for part in asked.parts])
        return (Said(asked.rows, Residuals(intra=weighed)),)


def _places(family: Family, height: int, width: int) -> list[tuple[int, int, int]]:
    """Width of the block, height and width of the latents at each place where the UNet takes features; the middle is last.

    Blocks with attention take them before they halve the size, those without after.
    """
    config = family.network.config
    places, last = [], len(config.down_block_types) - 1
    for index, (kind, channels) in enumerate(zip(config.down_block_types, config.block_out_channels, strict=True)):
        before = (channels, height, width)
        if index < last:
            height, width = -(-height // 2), -(-width // 2)
        places.append(before if kind.startswith("CrossAttn") else (channels, height, width))
    return [*places, (config.block_out_channels[-1], height, width)]
